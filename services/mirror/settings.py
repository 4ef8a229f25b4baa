"""Settings of the mirror."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0)]


class MirrorSettings(BaseSettings):
    """Settings with the prefix `MIRROR_`. At least one registry must be set."""

    model_config = SettingsConfigDict(env_prefix="MIRROR_", frozen=True, extra="ignore", env_ignore_empty=True)

    mlflow_url: str | None = Field(default=None, pattern=r"^https?://[^\s/@?#]+(/[^\s?#]*)?$")
    """URL of the MLflow server, without credentials."""
    mlflow_token_file: Path | None = None
    """File with MLflow's bearer token, or with `user:password`."""
    mlflow_ca: Path | None = None
    """CA certificate (PEM) of the MLflow server; by default, the system's CAs."""
    mlflow_prefix: str = Field(default="", pattern=r"^[A-Za-z0-9._-]{0,100}$")
    """Prefix of registered model names in MLflow."""
    hf_endpoint: str | None = Field(default=None, pattern=r"^https?://[^\s/@?#]+$")
    """URL of the Hugging Face Hub: https://huggingface.co, or another with the same API."""
    hf_repositories: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,60}/[A-Za-z0-9._-]{0,30}$")
    """Prefix of repository names, `acme/` or `acme/slipway-`; the model's name follows. Repositories are private."""
    hf_token_file: Path | None = None
    """File with a token that may write to these repositories."""
    hf_weights: Literal["published", "merged"] = "published"
    """Weights to push: the published checkpoint, or the merged model."""
    wandb_project: str | None = Field(default=None, pattern=r"^([A-Za-z0-9_.-]+/)?[A-Za-z0-9_.-]+$")
    """Weights & Biases project for artifacts, `PROJECT` or `ENTITY/PROJECT`."""
    wandb_python: Path = Path(".venv-wandb/bin/python")
    """Interpreter of an environment with `wandb`."""
    wandb_mode: Literal["online", "offline"] = "online"
    """`online`: send artifacts. `offline`: only write them to the state folder, for `wandb sync`."""
    wandb_url: str | None = Field(default=None, pattern=r"^https?://[^\s/@?#]+")
    """URL of a self-hosted W&B server."""
    wandb_key_file: Path | None = None
    """File with the W&B API key."""
    sweep_s: Seconds = 2.0
    """Seconds between checks for changes."""
    resync_s: Seconds = 300.0
    """Seconds between comparisons of all models, for changes that were missed."""
    retry_first_s: Seconds = 2.0
    """Seconds until the first retry after a registry failed; doubled with each further failure."""
    retry_longest_s: Seconds = 300.0
    """Longest wait until a retry in seconds."""

    def require_registry(self) -> "MirrorSettings":
        """Return the settings."""
        if (self.hf_endpoint is None) != (self.hf_repositories is None):
            msg = "MIRROR_HF_ENDPOINT and MIRROR_HF_REPOSITORIES belong together: set both, or none"
            raise ValueError(msg)
        if self.mlflow_url is None and self.hf_endpoint is None and self.wandb_project is None:
            msg = (
                "no registry is set: the mirror needs MIRROR_MLFLOW_URL, MIRROR_HF_ENDPOINT with "
                "MIRROR_HF_REPOSITORIES, or MIRROR_WANDB_PROJECT"
            )
            raise ValueError(msg)
        return self
