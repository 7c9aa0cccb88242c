"""Training code of all methods: loop, schedules, optimisers, EMA, augmentation, mixing, drop path."""
