"""The benchmarker: measures a staged candidate against its baseline under load, and applies the policy's gates."""
