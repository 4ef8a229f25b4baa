"""Evaluations of a policy: sets of rows with expectations, scorers, and bounds of scores."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal, Union

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import SchemaError, SchemaValidator, core_schema

from ..vocabulary import Digest

SETS: Final = 8
"""Maximum number of evaluations of a policy."""
SIZE_BYTES: Final = 32_768
"""Maximum size of a policy's evaluations as JSON, in bytes."""
EACH_SLICE: Final = "*"
"""Slice of a bound that limits each slice separately."""
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
SliceName = Annotated[str, StringConstraints(pattern=r"^(\*|[A-Za-z0-9][A-Za-z0-9 ._-]{0,62})$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=2_000)]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}$")]
"""ISO 639-1 code of a language: `en`, `de`, `zh`."""


def compile_pattern(pattern: str) -> SchemaValidator:
    """Return a compiled regular expression: `isinstance_python(text)` returns whether a text has a match.

    Matching takes linear time, with the syntax of RE2: without look-around and back-references.

    Raises:
        ValueError: The pattern is invalid; the message includes advice.
    """
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError as error:
        reason = " ".join(str(error).rsplit("error:", 1)[-1].split())
        raise ValueError(
            f"the pattern {pattern[:100]!r} cannot be used: {reason}; write it without look-around and back-references"
        ) from None


def _check_pattern(pattern: str) -> str:
    compile_pattern(pattern)
    return pattern


Pattern = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(_check_pattern)]


class Strict(BaseModel):
    """A part of a policy; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _Scorer(Strict):
    """A scorer of answers.

    Attributes:
        kind: Kind of the scorer.
    """

    name: Name | None = None
    """Name in bounds, required if two scorers of a set have the same kind; by default the kind."""

    @property
    def label(self) -> str:
        """Return the scorer's name in bounds and reports."""
        return self.name or str(getattr(self, "kind", ""))


class Equals(_Scorer):
    """The answer equals the row's expected text, without white space at both ends."""

    kind: Literal["equals"] = "equals"
    compare: Literal["text", "json"] = "text"
    """`json`: as JSON values, regardless of the order of keys; other answers count as unparsed."""
    ignore_case: bool = False
    """Whether the case of texts is ignored."""


class Contains(_Scorer):
    """The answer contains the row's expected text, or all texts of its list, and no excluded text.

    Texts match whole words (`ice` is not in `nice`), except in scripts without spaces.
    """

    kind: Literal["contains"] = "contains"
    excludes: Annotated[tuple[Text, ...], Field(max_length=32)] = ()
    """Excluded texts."""
    ignore_case: bool = True
    """Whether case is ignored."""


class Matches(_Scorer):
    """The answer has a match of a regular expression."""

    kind: Literal["regex"] = "regex"
    pattern: Pattern | None = None
    """The expression in the syntax of RE2; by default the row's."""


class JsonSchema(_Scorer):
    """The answer is JSON and satisfies a JSON Schema."""

    kind: Literal["json_schema"] = "json_schema"
    definition: dict[str, Any] | None = None
    """The schema (draft 2020-12); by default the row's."""
    fenced: bool = False
    """Whether a Markdown code block around the answer is permitted."""


class ToolCalls(_Scorer):
    """The answer has the row's expected tool calls in order; `null` expects none."""

    kind: Literal["tool_call"] = "tool_call"
    arguments: Literal["equal", "include", "any"] = "equal"
    """Whether arguments must equal the expected ones, include them, or are ignored."""


class InLanguage(_Scorer):
    """The share of the answer in a language; answers that are too short to recognise are left out."""

    kind: Literal["language"] = "language"
    language: Language | None = None
    """The language; by default the row's, else that of its last message."""


class Length(_Scorer):
    """The answer is not cut off and has a length within bounds; with tool calls it needs no text."""

    kind: Literal["length"] = "length"
    min_chars: Annotated[int, Field(ge=0)] = 1
    """Minimum characters."""
    max_chars: Annotated[int, Field(ge=1)] | None = None
    """Maximum characters."""

    @model_validator(mode="after")
    def _can_hold(self) -> Length:
        if self.max_chars is not None and self.min_chars > self.max_chars:
            raise ValueError(
                f"length: min_chars is {self.min_chars}, above max_chars, {self.max_chars}; no answer can be both"
            )
        return self


class Refuses(_Scorer):
    """The answer is a refusal, or not, as expected; in English, German, Spanish, French or Chinese."""

    kind: Literal["refusal"] = "refusal"
    refuses: bool | None = None
    """Whether answers must refuse; by default the row's expectation, else false."""


class Repeats(_Scorer):
    """The answer does not end in a loop."""

    kind: Literal["repetition"] = "repetition"
    max_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.3
    """Maximum repeated share of the answer's last 2,000 characters."""


Scorer = Annotated[
    Union[Equals, Contains, Matches, JsonSchema, ToolCalls, InLanguage, Length, Refuses, Repeats],
    Field(discriminator="kind"),
]


class Bound(Strict):
    """Limits of a candidate's mean score; all declared limits must be met."""

    scorer: Name | None = None
    """Label of the scorer; optional if the evaluation has one scorer."""
    slice: SliceName | None = None
    """A slice, or `*` for each slice separately; by default all rows."""
    min_value: Share | None = None
    """Minimum mean score of the candidate."""
    max_drop: Share | None = None
    """Maximum distance of the mean score below the active version's on the same rows."""
    max_drop_from_anchor: Share | None = None
    """Maximum distance of the mean score below the anchor's recorded one on the same rows, so that small drops do not
    add up. The anchor is the first promoted version with scores of enough rows that is not quarantined; without one,
    the limit is left out. A change of set, scorers, name, `max_rows`, `max_tokens` or slices of bounds begins with a
    new anchor. With this limit all rows are asked, unless the candidate is proved worse."""
    undecided: Literal["stop", "continue"] = "stop"
    """Result if the rows do not suffice: `stop` rejects the release; `continue` refuses only candidates that are proved
    worse, so that `beta` does not hold."""

    @model_validator(mode="after")
    def _has_a_limit(self) -> Bound:
        if self.min_value is None and self.max_drop is None and self.max_drop_from_anchor is None:
            raise ValueError("a bound needs min_value, max_drop or max_drop_from_anchor")
        return self

    @property
    def least_margin(self) -> float:
        """Return the smallest distance of a limit from a perfect score; to prove it takes the most rows."""
        margins = (self.max_drop, self.max_drop_from_anchor, None if self.min_value is None else 1.0 - self.min_value)
        return min(margin for margin in margins if margin is not None)


class Evaluation(Strict):
    """A set of rows that is scored for the candidate and the active version."""

    name: Name
    """Unique name in the policy, reports and events."""
    rows: Literal["event", "default"] = "event"
    """`event`: the checkpoint's evaluation set. `default`: Slipway's 120 rows, by default with the scorers and bounds
    of `DEFAULT`."""
    rows_digest: Digest | None = None
    """SHA-256 of the only permitted evaluation set of checkpoints: in a stored policy it prevents that publishers
    choose the rows."""
    scorers: Annotated[tuple[Scorer, ...], Field(min_length=1, max_length=8)]
    """The scorers of each answer."""
    bounds: Annotated[tuple[Bound, ...], Field(max_length=32)] = ()
    """Limits of the scores; by default scores are only reported."""
    max_rows: Annotated[int, Field(ge=20, le=10_000)] = 1_000
    """Maximum rows to ask; fewer if all bounds are decided before, and none has an anchor."""
    max_tokens: Annotated[int, Field(ge=1, le=8_192)] = 512
    """Maximum tokens of an answer."""

    @model_validator(mode="before")
    @classmethod
    def _fill_default(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("rows") == "default" and "scorers" not in data:
            return {**DEFAULT, **data}
        return data

    @model_validator(mode="after")
    def _pins_a_set_of_its_own(self) -> Evaluation:
        if self.rows == "default" and self.rows_digest is not None:
            raise ValueError(f"the evaluation {self.name!r} asks the set that Slipway brings; leave rows_digest out")
        return self

    @model_validator(mode="after")
    def _bounds_name_scorers(self) -> Evaluation:
        labels = [scorer.label for scorer in self.scorers]
        repeated = next((label for label in labels if labels.count(label) > 1), None)
        if repeated is not None:
            raise ValueError(
                f"the evaluation {self.name!r} has two scorers {repeated!r}; give one of them another name"
            )
        for bound in self.bounds:
            if bound.scorer is None and len(labels) > 1:
                raise ValueError(f"a bound of the evaluation {self.name!r} needs scorer, one of {', '.join(labels)}")
            if bound.scorer is not None and bound.scorer not in labels:
                raise ValueError(
                    f"a bound of {self.name!r} names the scorer {bound.scorer!r}; there are {', '.join(labels)}"
                )
        named = [(self.label_of(bound), bound.slice) for bound in self.bounds]
        twice = next((each for each in named if named.count(each) > 1), None)
        if twice is not None:
            raise ValueError(
                f"the evaluation {self.name!r} bounds {twice[0]!r} of the same rows twice; join the two bounds"
            )
        return self

    @property
    def has_anchor(self) -> bool:
        """Return whether a bound limits the drop from an anchor."""
        return any(bound.max_drop_from_anchor is not None for bound in self.bounds)

    @property
    def asked(self) -> dict[str, Any]:
        """Return the fields that, with the set, determine the choice and scoring of rows."""
        slices = sorted({bound.slice for bound in self.bounds if bound.slice})
        return {**self.model_dump(mode="json", exclude={"bounds", "rows_digest"}), "slices of bounds": slices}

    def label_of(self, bound: Bound) -> str:
        """Return the label of the scorer whose scores a bound limits."""
        return bound.scorer or self.scorers[0].label


DEFAULT: Final[dict[str, Any]] = {
    "scorers": tuple(
        {"kind": kind} for kind in ("contains", "language", "json_schema", "length", "refusal", "repetition")
    ),
    "bounds": (
        {"scorer": "length", "max_drop": 0.2},
        {"scorer": "repetition", "max_drop": 0.2},
        *(
            {"scorer": scorer, "slice": of, "max_drop": 0.1, "undecided": "continue"}
            for scorer, of in (
                ("contains", "stops"),
                ("language", "language"),
                ("json_schema", "json"),
                ("contains", "roles"),
                ("refusal", "refuses"),
                ("refusal", "answers"),
            )
        ),
    ),
    "max_rows": 120,
    "max_tokens": 192,
}
"""Defaults of an evaluation with Slipway's set of general chat abilities. Its bounds are relative to the active
version and detect the loss of an ability: 20 rows show large losses."""


class StatedBound(Strict):
    """Limits of a figure in the event's `evals`, stated by the publisher."""

    name: Text
    """Name of the evaluation, as in `slipway publish --eval NAME:METRIC=VALUE`."""
    metric: Text
    """Name of the figure."""
    higher_is_better: bool = True
    """Whether greater figures are better; the publisher must state the same."""
    limit: float | None = None
    """Worst permitted figure."""
    max_drop: Annotated[float, Field(ge=0.0)] | None = None
    """Maximum loss against the version that is active at admission, in the figure's unit; ignored if that version has
    no such figure."""

    @model_validator(mode="after")
    def _has_a_limit(self) -> StatedBound:
        if self.limit is None and self.max_drop is None:
            raise ValueError(f"the bound of {self.name} {self.metric} needs limit or max_drop")
        return self


class Schedule(Strict):
    """Periodic evaluation of the active and the previous version."""

    every_hours: Annotated[float, Field(ge=0.01, le=48.0)] = 24.0
    """Hours between checks; two consecutive ones must prove a fall."""
    rows: Annotated[int, Field(ge=10, le=500)] = 60
    """Rows of a check, divided among the evaluations; more if scorers, or slices in bounds, need them to show a total
    loss. Each check draws new rows."""


class Evaluations(Strict):
    """Evaluations that a candidate must pass before it takes traffic."""

    stated: Annotated[tuple[StatedBound, ...], Field(max_length=32)] = ()
    """Bounds of the publisher's figures; checkpoints beyond a bound, or without its figure, are rejected."""
    sets: Annotated[tuple[Evaluation, ...], Field(max_length=SETS)] = ()
    """The evaluations."""
    alpha: Share = 0.02
    """Probability that a candidate within all limits is found to miss one, per release; on the schedule, per month. Too
    few rows refuse more (see `undecided`)."""
    beta: Share = 0.05
    """Probability that a candidate beyond a limit is found to meet it; without limits that may be undecided."""
    schedule: Schedule | None = None
    """Periodic evaluation of served versions for a trigger with the metric `evaluation_drop`. With it, a release asks
    all rows up to `max_rows`, unless the candidate is proved worse."""

    @model_validator(mode="after")
    def _is_whole(self) -> Evaluations:
        names = [evaluation.name for evaluation in self.sets]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise ValueError(f"the evaluation {repeated!r} is declared more than once; names must be unique")
        size = len(json.dumps(self.model_dump(mode="json"), ensure_ascii=False).encode())
        if size > SIZE_BYTES:
            raise ValueError(
                f"evaluations have {size:,} bytes as JSON; the limit is {SIZE_BYTES:,}; put schemas into the rows"
            )
        return self
