"""YAML and JSON files, read with the line of each value."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from clients.cli.errors import CommandError, Exit
from clients.cli.releases.names import nearest
from decisions.policies.refused_values import describe_refusal

M = TypeVar("M", bound=BaseModel)
LARGEST_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Problem:
    """An error in a file, with its position."""

    file: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        """Return the problem in the format of compilers: `policy.yaml:12: triggers.0.threshold: …`."""
        named = self.message.startswith(self.field.removeprefix("policy."))  # also where the field is empty
        return f"{self.file}:{self.line}: {'' if named else f'{self.field}: '}{self.message}"

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return asdict(self)


@dataclass(frozen=True)
class Document:
    """A document of a file: data, and YAML nodes with lines."""

    file: str
    node: yaml.Node
    data: Any

    @property
    def line(self) -> int:
        """Line on which it begins."""
        return int(self.node.start_mark.line) + 1

    def line_of(self, location: Sequence[str | int]) -> int:
        """Return the line of a value, or of its parent if the value is missing."""
        node, line = self.node, self.line
        for step in location:
            key, child = _child(node, step)
            if child is None:
                break
            line, node = int((key or child).start_mark.line) + 1, child
        return line

    def problem(self, message: str, *location: str | int) -> Problem:
        """Return a problem of a value in it."""
        return Problem(self.file, self.line_of(location), ".".join(map(str, location)), message)

    def problems(self, error: ValidationError, kind: type[BaseModel]) -> list[Problem]:
        """Return a model's validation errors, sorted by line; of nested errors only the innermost."""
        errors = error.errors()
        inner = [each for each in errors if not any(_is_inside(other["loc"], each["loc"]) for other in errors)]
        listed = [self.problem(_describe(each, kind, each["loc"]), *each["loc"]) for each in inner]
        return sorted(listed, key=lambda problem: problem.line)


class InvalidError(CommandError):
    """Ends a command with the problems of files, each with its line."""

    def __init__(self, problems: Sequence[Problem], what: str = "the input") -> None:
        count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
        listed = "\n".join(f"  {each}" for each in problems)
        details = {"problems": [each.as_data() for each in problems]}
        super().__init__(f"{what} is not valid, {count}:\n{listed}", Exit.USAGE, details=details)
        self.problems = tuple(problems)


def read_documents(path: Path) -> list[Document]:
    """Return the documents of a file, without empty documents.

    Raises:
        CommandError: The file cannot be read, or is neither YAML nor JSON.
        InvalidError: A key is given twice, or a value is an alias.
    """
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise CommandError(f"{path} has more than {LARGEST_BYTES} bytes: split it", Exit.USAGE)
        text = path.read_text()
        nodes = [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node is not None]
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}", Exit.USAGE) from error
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise CommandError(f"{path} is neither YAML nor JSON: {_in_one_line(error)}", Exit.USAGE) from error
    problems = [problem for node in nodes for problem in _structure(str(path), node)]
    if problems:
        raise InvalidError(problems)
    try:
        documents = [Document(str(path), node, _construct(node)) for node in nodes]
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:  # an unknown tag, an impossible date
        raise CommandError(f"{path} has a value that cannot be read: {_in_one_line(error)}", Exit.USAGE) from error
    return [document for document in documents if document.data is not None]


def validated(document: Document, kind: type[M], what: str) -> M:
    """Return a document as a value of a type; `what` names the document in the message.

    Raises:
        InvalidError: The document does not match `kind`.
    """
    try:
        return kind.model_validate(document.data)
    except ValidationError as error:
        raise InvalidError(document.problems(error, kind), what) from error


def _describe(problem: Mapping[str, Any], kind: type[BaseModel], location: Sequence[str | int]) -> str:
    """Return the error of a value, with the known fields nearest to an unknown one."""
    if problem["type"] != "extra_forbidden":
        return describe_refusal(problem)
    name = str(location[-1])
    near = nearest(name, _fields_at(kind, location[:-1]))
    return f"unknown field {name}{f'; {near}' if near else ''}"


def _fields_at(annotation: Any, location: Sequence[str | int]) -> set[str]:
    """Return the names of the fields of a type at a location; empty if the type lacks the location."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not location:
            return set(annotation.model_fields)
        field = annotation.model_fields.get(str(location[0]))
        return set() if field is None else _fields_at(field.annotation, location[1:])
    rest = location[1:] if get_origin(annotation) in (tuple, list, dict) else location
    return {name for part in get_args(annotation) for name in _fields_at(part, rest)}


def _structure(file: str, root: yaml.Node) -> Iterator[Problem]:
    """Yield problems of duplicate keys, silently dropped by YAML, and of aliases, which may repeat without end."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, yaml.ScalarNode) and id(node) in seen:
            yield Problem(file, node.start_mark.line + 1, "", "the value is used again by an alias; write it out")
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    yield Problem(file, key.start_mark.line + 1, "", "the key is no text")
                elif key.value in keys:
                    yield Problem(file, key.start_mark.line + 1, key.value, "the key is given twice")
                else:
                    keys.add(key.value)
                waiting.append(value)


def _construct(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _child(node: yaml.Node, step: str | int) -> tuple[yaml.Node | None, yaml.Node | None]:
    """Return the key and the value below a node; None for a missing one."""
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return None, node.value[step]
    if isinstance(node, yaml.MappingNode):
        return next(((key, value) for key, value in node.value if key.value == str(step)), (None, None))
    return None, None


def _is_inside(location: Sequence[str | int], other: Sequence[str | int]) -> bool:
    return len(location) > len(other) and tuple(location[: len(other)]) == tuple(other)


def _in_one_line(error: Exception) -> str:
    """Return a parser's error, with its position."""
    mark = getattr(error, "problem_mark", None)
    if not isinstance(error, yaml.MarkedYAMLError) or mark is None:
        return " ".join(str(error).split())
    return f"{error.problem} in line {mark.line + 1}, column {mark.column + 1}"
