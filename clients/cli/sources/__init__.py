"""What is published: checkpoints and bases, where they come from, and what is checked before."""
