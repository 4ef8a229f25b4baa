"""The features of texts in telemetry: numbers from which the text cannot be restored.

What they mean is defined once, by the scorers of evaluations (`decisions.scorers`). A process of its own computes them:
they load much that a gateway need not hold.
"""

from contracts.facts.watch import Features
from decisions.scorers.languages import LEAST_LETTERS, Recognise, count_letters, language_share, prose_of
from decisions.scorers.reasoning import without_reasoning
from decisions.scorers.refusals import is_refusal
from decisions.scorers.repetition import repetition_ratio
from services.gateway.domain.delivered import read_delivered
from services.gateway.domain.excerpts import LANGUAGE_CHARS, Described, Excerpts
from services.gateway.domain.forms import read_form

_STRUCTURED = ("{", "[")


def describe(texts: Excerpts, recognise: Recognise) -> Described:
    """Return the features of what excerpts were taken from; the excerpt decides what is empty."""
    if not texts.form or (form := read_form(texts.form)).is_any:
        return Described(_describe(texts, without_reasoning(texts.output), recognise))
    answer = read_delivered(texts.delivered)
    if answer is None:
        return describe_unjudged(texts)
    features = _describe(texts, answer.text, recognise)
    return Described(features.model_copy(update={"valid_json": form.is_met(answer)}))


def describe_unjudged(texts: Excerpts) -> Described:
    """Return the features of an answer whose form is not looked at: its text and its calls cannot be told apart."""
    return Described(_describe(texts, "", lambda _: None), is_judged=False)


def _describe(texts: Excerpts, prose: str, recognise: Recognise) -> Features:
    sample = texts.output
    return Features(
        prompt_chars=texts.prompt_chars,
        output_chars=texts.output_chars,
        non_letter_ratio=non_letter_ratio(sample),
        repetition_ratio=repetition_ratio(sample),
        refusal=is_refusal(sample),
        empty=not sample.strip(),
        language_ratio=language_ratio(texts.asked, prose, recognise),
    )


def language_ratio(asked: str, answer: str, recognise: Recognise) -> float | None:
    """Return the share of an answer that is in the language of what was asked; None if it cannot be told.

    A text whose two ends are in two languages, such as a question about a text, asks for neither; JSON has none.
    """
    if not asked or answer.lstrip().startswith(_STRUCTURED):
        return None
    prose = prose_of(answer)[-LANGUAGE_CHARS:]
    if count_letters(prose) < LEAST_LETTERS:
        return None
    ends = {asked[:LANGUAGE_CHARS], asked[-LANGUAGE_CHARS:]}
    languages = {recognise(end) if count_letters(end) >= LEAST_LETTERS else None for end in ends}
    language = languages.pop() if len(languages) == 1 else None
    return None if language is None else language_share(prose, language, recognise)


def non_letter_ratio(text: str) -> float:
    """Return the share of characters that are no letters, among those that are no white space; 0 for no text."""
    visible = [char for char in text if not char.isspace()]
    return sum(not char.isalpha() for char in visible) / len(visible) if visible else 0.0
