"""Evaluations of a policy: sets of rows with expected answers, scorers, and bounds of the scores."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal, Union

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import SchemaError, SchemaValidator, core_schema

from ..vocabulary import Digest

SETS: Final = 8
"""Most evaluations of a policy."""
SIZE_BYTES: Final = 32_768
"""Most bytes of all evaluations of a policy together, as JSON."""
EACH_SLICE: Final = "*"
"""The slice of a bound that holds for each slice of the set by itself."""
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
SliceName = Annotated[str, StringConstraints(pattern=r"^(\*|[A-Za-z0-9][A-Za-z0-9 ._-]{0,62})$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=2_000)]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}$")]
"""A language as ISO 639-1 names it: `en`, `de`, `zh`."""


def compile_pattern(pattern: str) -> SchemaValidator:
    """Return a regular expression whose `isinstance_python(text)` is whether a text has a match.

    It takes a time linear in the text, as RE2 does, so that no answer can stop an evaluation. As in RE2, there is no
    look-around and no back-reference.

    Raises:
        ValueError: It is none; the message says why, and what to do.
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
    """A scorer of an answer.

    Attributes:
        kind: Which scorer it is.
    """

    name: Name | None = None
    """What bounds call it, if two scorers of a set are of one kind; without it, its kind."""

    @property
    def label(self) -> str:
        """Return the scorer's name in bounds and reports."""
        return self.name or str(getattr(self, "kind", ""))


class Equals(_Scorer):
    """The answer equals the row's expected text; white space at both ends is ignored."""

    kind: Literal["equals"] = "equals"
    compare: Literal["text", "json"] = "text"
    """`json`: as values, whatever the order of keys; an answer that is no JSON cannot be parsed."""
    ignore_case: bool = False
    """Whether upper and lower case are the same, of a text."""


class Contains(_Scorer):
    """The answer contains the text, or every text of the list, that the row expects, and none that is excluded.

    A text counts as whole words: `ice` is not in `nice`, except in scripts without spaces.
    """

    kind: Literal["contains"] = "contains"
    excludes: Annotated[tuple[Text, ...], Field(max_length=32)] = ()
    """Texts that no answer may contain."""
    ignore_case: bool = True
    """Whether upper and lower case are the same."""


class Matches(_Scorer):
    """The answer has a match of a regular expression, in time linear in its length."""

    kind: Literal["regex"] = "regex"
    pattern: Pattern | None = None
    """The expression, in the syntax of RE2; without it, the row's."""


class JsonSchema(_Scorer):
    """The answer is JSON, and valid by a JSON Schema."""

    kind: Literal["json_schema"] = "json_schema"
    definition: dict[str, Any] | None = None
    """The schema, of draft 2020-12; without it, the row's."""
    fenced: bool = False
    """Whether the answer may stand in a Markdown code block."""


class ToolCalls(_Scorer):
    """The answer calls the tool, or the tools in order, that the row expects; `null` expects no call."""

    kind: Literal["tool_call"] = "tool_call"
    arguments: Literal["equal", "include", "any"] = "equal"
    """Whether the arguments must be those expected, include them, or are not compared."""


class InLanguage(_Scorer):
    """The share of the answer in a language; an answer too short to recognise is no evidence."""

    kind: Literal["language"] = "language"
    language: Language | None = None
    """The language; without it, the row's, else that of the row's last message."""


class Length(_Scorer):
    """The answer ends by itself, and its length is within bounds; an answer with tool calls needs no text."""

    kind: Literal["length"] = "length"
    min_chars: Annotated[int, Field(ge=0)] = 1
    """Fewest characters."""
    max_chars: Annotated[int, Field(ge=1)] | None = None
    """Most characters."""

    @model_validator(mode="after")
    def _can_hold(self) -> Length:
        if self.max_chars is not None and self.min_chars > self.max_chars:
            raise ValueError(
                f"length: min_chars is {self.min_chars}, above max_chars, {self.max_chars}; no answer can be both"
            )
        return self


class Refuses(_Scorer):
    """The answer refuses, or does not, as the row expects; in English, German, Spanish, French or Chinese."""

    kind: Literal["refusal"] = "refusal"
    refuses: bool | None = None
    """Whether answers must refuse; without it, what the row says, else they must not."""


class Repeats(_Scorer):
    """The answer does not end in a loop."""

    kind: Literal["repetition"] = "repetition"
    max_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.3
    """Most of the answer's last 2,000 characters that may be written again in a loop."""


Scorer = Annotated[
    Union[Equals, Contains, Matches, JsonSchema, ToolCalls, InLanguage, Length, Refuses, Repeats],
    Field(discriminator="kind"),
]


class Bound(Strict):
    """The limits of a candidate's mean score; every declared limit must be met."""

    scorer: Name | None = None
    """Whose scores; may be left out where the evaluation has one scorer."""
    slice: SliceName | None = None
    """Of which rows: one slice, or `*` for each slice by itself; without it, all rows."""
    min_value: Share | None = None
    """The least mean score of the candidate."""
    max_drop: Share | None = None
    """The most that the mean score may be below the active version's on the same rows."""
    max_drop_from_anchor: Share | None = None
    """The most that the mean score may be below the anchor's, as it was recorded on the same rows, so that small drops
    do not add up. The anchor is the first version that was promoted with this evaluation, had scores of enough rows
    for each such limit, and is not quarantined; without one, this limit is left out. A change of its set, scorers,
    name, `max_rows`, `max_tokens`, or the slices of its bounds begins with another one. With it, every row is asked,
    unless the candidate is proved worse."""
    undecided: Literal["stop", "continue"] = "stop"
    """What happens if the rows do not suffice to decide: the release is rejected and says so, or it goes on, so that
    only a candidate that is proved worse is refused, and `beta` does not hold."""

    @model_validator(mode="after")
    def _has_a_limit(self) -> Bound:
        if self.min_value is None and self.max_drop is None and self.max_drop_from_anchor is None:
            raise ValueError("a bound needs min_value, max_drop or max_drop_from_anchor")
        return self

    @property
    def least_margin(self) -> float:
        """Return the smallest distance from a perfect figure to a limit, which needs the most rows."""
        margins = (self.max_drop, self.max_drop_from_anchor, None if self.min_value is None else 1.0 - self.min_value)
        return min(margin for margin in margins if margin is not None)


class Evaluation(Strict):
    """One set of rows, scored for the candidate and the active version, row by row."""

    name: Name
    """Unique in the policy; reports and events name it."""
    rows: Literal["event", "default"] = "event"
    """Where the set is: `event` for the checkpoint's evaluation set, `default` for the 120 rows that Slipway brings.
    The latter needs no scorers: without any, it has those and the bounds of `DEFAULT`."""
    rows_digest: Digest | None = None
    """Of the only set that a checkpoint may bring, as `sha256sum` has it: with it in a model's stored policy, who
    publishes does not choose the rows."""
    scorers: Annotated[tuple[Scorer, ...], Field(min_length=1, max_length=8)]
    """What is scored of each answer."""
    bounds: Annotated[tuple[Bound, ...], Field(max_length=32)] = ()
    """What the scores must be; without any, they are only reported."""
    max_rows: Annotated[int, Field(ge=20, le=10_000)] = 1_000
    """Most rows that are asked; fewer, where each bound is decided before, and none is about an anchor."""
    max_tokens: Annotated[int, Field(ge=1, le=8_192)] = 512
    """Most tokens of an answer."""

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
        """Return the fields that, with the set, decide the choice and scoring of rows, by name."""
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
"""The evaluation with the set that Slipway brings: what every chat model must do, whatever its task. Its bounds
are relative to the active version, and refuse what lost one of these abilities: 20 rows show great losses."""


class StatedBound(Strict):
    """The limits of a figure that the publisher states: one of the event's `evals`."""

    name: Text
    """The evaluation's, as in `slipway publish --eval NAME:METRIC=VALUE`."""
    metric: Text
    """The figure's."""
    higher_is_better: bool = True
    """Whether a greater one is better; one that its publisher states as better if lower is refused by a bound that says
    higher."""
    limit: float | None = None
    """The worst one that is admitted."""
    max_drop: Annotated[float, Field(ge=0.0)] | None = None
    """How much worse than that of the version that is active at admission it may be, in its own unit; nothing is
    compared where none was stated of that version, so that a bound can be introduced."""

    @model_validator(mode="after")
    def _has_a_limit(self) -> StatedBound:
        if self.limit is None and self.max_drop is None:
            raise ValueError(f"the bound of {self.name} {self.metric} needs limit or max_drop")
        return self


class Schedule(Strict):
    """When the active and the previous version are asked again, without callers."""

    every_hours: Annotated[float, Field(ge=0.01, le=48.0)] = 24.0
    """Hours from one check to the next; two in a row must prove a fall."""
    rows: Annotated[int, Field(ge=10, le=500)] = 60
    """Rows of a check, shared by the evaluations; more if scorers, or slices that bounds name, need them to show a
    total loss. Each check draws others."""


class Evaluations(Strict):
    """The evaluations that a candidate must pass before it takes traffic."""

    stated: Annotated[tuple[StatedBound, ...], Field(max_length=32)] = ()
    """Bounds of the publisher's own figures; a checkpoint beyond one, or without its figure, is rejected at once."""
    sets: Annotated[tuple[Evaluation, ...], Field(max_length=SETS)] = ()
    """The evaluations; without any, none is made."""
    alpha: Share = 0.02
    """Probability that a candidate within every limit is found to miss one, of a release: it is split over all limits.
    Too few rows refuse more: see `undecided`. On the schedule, of all checks of a month."""
    beta: Share = 0.05
    """Probability that a candidate beyond a limit is found to meet it; not of limits that may be undecided."""
    schedule: Schedule | None = None
    """When served versions are asked again, for a trigger with the metric `evaluation_drop`. With it, a release asks
    every row, up to `max_rows`, unless the candidate is proved worse: only rows with a score can be compared."""

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
