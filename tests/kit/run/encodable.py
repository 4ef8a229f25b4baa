"""Reports that a worker can send: what a hostile input made a library print may be no text in UTF-8."""

import pytest


def encodable(text: str) -> str:
    """Return a text with its lone surrogates replaced."""
    return text.encode(errors="replace").decode()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Replace in a report what pytest-xdist could not send: it would end the worker, and the run with it."""
    report = yield
    report.sections = [(name, encodable(text)) for name, text in report.sections]
    if report.longrepr is not None and not isinstance(report.longrepr, tuple):
        text = str(report.longrepr)
        if encodable(text) != text:
            report.longrepr = encodable(text)
    return report
