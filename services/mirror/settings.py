"""Settings of the mirror."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0)]


class MirrorSettings(BaseSettings):
    """Read from the environment once (prefix `MIRROR_`). At least one registry must be set."""

    model_config = SettingsConfigDict(env_prefix="MIRROR_", frozen=True, extra="ignore", env_ignore_empty=True)

    mlflow_url: str | None = Field(default=None, pattern=r"^https?://[^\s/@?#]+(/[^\s?#]*)?$")
    """MLflow server that versions are registered in; a credential does not belong into the address."""
    mlflow_token_file: Path | None = None
    """File with MLflow's bearer token, or with `user:password`."""
    mlflow_ca: Path | None = None
    """Certificate (PEM) of the authority that MLflow's certificate is from; without it, the system's list counts."""
    mlflow_prefix: str = Field(default="", pattern=r"^[A-Za-z0-9._-]{0,100}$")
    """Beginning of the names of registered models in MLflow, before the model's own."""
    hf_endpoint: str | None = Field(default=None, pattern=r"^https?://[^\s/@?#]+$")
    """Hugging Face Hub that versions are pushed to: https://huggingface.co, or another of the same protocol."""
    hf_repositories: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,60}/[A-Za-z0-9._-]{0,30}$")
    """Beginning of the repositories' names, `acme/` or `acme/slipway-`; the model's name follows. They are private."""
    hf_token_file: Path | None = None
    """File with a token that may write to these repositories."""
    hf_weights: Literal["published", "merged"] = "published"
    """Which weights are pushed: the checkpoint as it was published, or the merged model."""
    wandb_project: str | None = Field(default=None, pattern=r"^([A-Za-z0-9_.-]+/)?[A-Za-z0-9_.-]+$")
    """Project of Weights & Biases that artifacts are logged to, `PROJECT` or `ENTITY/PROJECT`."""
    wandb_python: Path = Path(".venv-wandb/bin/python")
    """Interpreter of the environment with `wandb`."""
    wandb_mode: Literal["online", "offline"] = "online"
    """Whether artifacts are sent, or only written to the state folder, for `wandb sync`."""
    wandb_url: str | None = Field(default=None, pattern=r"^https?://[^\s/@?#]+")
    """Address of a W&B server of your own."""
    wandb_key_file: Path | None = None
    """File with W&B's API key."""
    sweep_s: Seconds = 2.0
    """Seconds between two looks at what changed."""
    resync_s: Seconds = 300.0
    """Seconds after which every model is compared again, whether or not anything is known to have changed."""
    retry_first_s: Seconds = 2.0
    """Seconds until the next try after a registry failed; they double with each failure in a row."""
    retry_longest_s: Seconds = 300.0
    """Most seconds until the next try."""

    def require_registry(self) -> "MirrorSettings":
        """Return the settings.

        Raises:
            ValueError: No registry is set, or one only in part.
        """
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
