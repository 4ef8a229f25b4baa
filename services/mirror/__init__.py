"""The mirror: copies registered versions into external registries (MLflow, Hugging Face Hub, Weights & Biases)."""
