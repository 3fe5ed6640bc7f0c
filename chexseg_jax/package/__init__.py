"""Trained models for other programs: StableHLO, ONNX, a Hugging Face repository; each with a card for its reader."""
