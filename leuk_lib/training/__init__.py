"""Training code shared by all methods: the loop, schedules, optimisers, EMA, augmentation, mixing, drop path."""
