"""The options of `slipway publish`."""

from pathlib import Path
from typing import Annotated

import typer

from contracts.precisions import PRECISIONS

ModelName = Annotated[str, typer.Option(help="Name of the model that the checkpoint belongs to.")]
Base = Annotated[str, typer.Option(help="Imported base model, NAME or NAME@REVISION.")]
Adapter = Annotated[
    str,
    typer.Option(
        help="Folder that save_pretrained wrote, with a LoRA or full weights; or hf://REPO@REVISION or file:///FOLDER. "
        "A tokenizer in it is published, too; without its files the base's is served."
    ),
]
RunId = Annotated[
    str | None,
    typer.Option(help="Training run that produced the checkpoint (default: the name of the folder)."),
]
DataHash = Annotated[
    str | None,
    typer.Option(help="Digest of the training data, sha256:HEX."),
]
Data = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE", help="In place of --data-hash: file with the training data, to be hashed; repeatable, in order."
    ),
]
CheckOnly = Annotated[bool, typer.Option("--check", help="Only check what can be checked before an upload.")]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait for the end of the release; the exit code is 0 if it was promoted, else 3.")
]
Hyperparameters = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUE", help="For example lr=0.0002; repeatable.")
]
Evaluated = Annotated[
    list[str] | None,
    typer.Option(
        "--eval",
        metavar="SUITE:METRIC=VALUE",
        help="Evaluation result, for example tickets:accuracy=0.9; repeatable.",
    ),
]
Variants = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PRECISION",
        help=f"Precision to produce: {', '.join(PRECISIONS)}; repeatable (default: int8).",
    ),
]
Policy = Annotated[
    Path | None, typer.Option(help="Release policy, YAML or JSON (default: the stored policy of the model).")
]
Attempt = Annotated[int, typer.Option(help="Increase it to release the same checkpoint again on purpose.")]
Calibration = Annotated[Path | None, typer.Option(help="JSON lines to calibrate quantisation on.")]
Evaluation = Annotated[Path | None, typer.Option(help="JSON lines to measure latency and quality with.")]
ToolParser = Annotated[
    str | None,
    typer.Option(help="The engine's parser of tool calls, for example hermes; none: set none and detect none."),
]
ReasoningParser = Annotated[
    str | None,
    typer.Option(help="The engine's parser of reasoning, for example qwen3; none: not even that of serving.json."),
]
ContextTokens = Annotated[
    int | None, typer.Option(min=1, help="The longest context, prompt and answer (default: the fleet's).")
]
TemplateOptions = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE", help="A variable of the chat template, for example enable_thinking=false; repeatable."
    ),
]
EngineOptions = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="An option of the engine, for example max_num_seqs=64; repeatable."),
]
Runtime = Annotated[
    str | None, typer.Option(help="Name of the fleet's runtime that serves it; see `slipway endpoints`.")
]
