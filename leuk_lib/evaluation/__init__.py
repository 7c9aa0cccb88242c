"""Evaluation of models, which it sees only as ``nn.Module``: metrics, calibration, baselines, robustness, attribution."""
