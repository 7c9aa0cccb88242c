"""How models are judged: metrics, intervals, calibration, baselines, attribution. Sees models only as ``nn.Module``."""
