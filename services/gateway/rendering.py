"""Renders conversations with the target's chat template, and attributes failures to the caller or the target."""

from contracts.routes import ServedTarget
from services.gateway.answer import AcceptedRequest
from services.gateway.dependencies import Dependencies
from services.gateway.domain import errors
from services.gateway.domain.errors import RequestRejected
from services.gateway.ports import MessagesRejected, TemplateBusy, TemplateFailed


class BrokenTemplateError(Exception):
    """The target's chat template is broken: the failure is attributed to the target."""


class Renderer:
    """Renders the conversations of chat requests."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies

    async def render(self, accepted: AcceptedRequest) -> str:
        """Return the prompt of a conversation.

        Raises:
            RequestRejected: 400 if these messages are the cause, 503 if no process was free.
            BrokenTemplateError: the template also fails a probe conversation, or it fails on messages that the
                fallback's template renders.
        """
        served = accepted.choice.served
        template = served.chat_template
        if template is None:
            message = f"{served.target} has no chat template; use /v1/completions."
            raise errors.bad_request(message, "model", "no_chat_template")
        templates, tokens = self._dependencies.templates, _special_tokens(served)
        try:
            prompt = await templates.render(template, accepted.parsed.messages, **tokens)
            prompt.encode()
        except (MessagesRejected, TemplateFailed, TemplateBusy, UnicodeEncodeError) as failure:
            probe = await templates.renders_probe(template, **tokens)
            may_be_broken = not isinstance(failure, MessagesRejected | TemplateBusy)
            if probe is False or (probe and may_be_broken and await self._only_fallback_renders(accepted)):
                raise BrokenTemplateError(str(failure)) from failure
            if isinstance(failure, MessagesRejected):
                raise errors.bad_request(str(failure), "messages", "template_refused") from failure
            if probe is None or isinstance(failure, TemplateBusy):
                raise RequestRejected(errors.template_busy(str(failure))) from failure
            message = f"{failure} It does render a plain conversation; change the messages."
            raise errors.bad_request(message, "messages", "template_refused") from failure
        return prompt

    async def _only_fallback_renders(self, accepted: AcceptedRequest) -> bool:
        """Return whether the fallback's template renders the messages, and the target's fails on them once more."""
        served = accepted.choice.served
        fallback = self._dependencies.find_fallback(accepted.environment, served.target)
        if fallback is None or fallback.chat_template in (None, served.chat_template):
            return False
        return await self._renders(fallback, accepted) is True and await self._renders(served, accepted) is False

    async def _renders(self, served: ServedTarget, accepted: AcceptedRequest) -> bool | None:
        """Return whether a target's template renders a conversation; None if that is unknown.

        A rendering that was stopped is no evidence: long messages and a busy machine can be the cause.
        """
        template, tokens = served.chat_template or "", _special_tokens(served)
        try:
            prompt = await self._dependencies.templates.render(template, accepted.parsed.messages, **tokens)
            prompt.encode()
        except TemplateBusy:
            return None
        except TemplateFailed as failure:
            return None if failure.stopped else False
        except (MessagesRejected, UnicodeEncodeError):
            return False
        return True


def _special_tokens(served: ServedTarget) -> dict[str, str]:
    return {"bos_token": served.bos_token or "", "eos_token": served.eos_token or ""}
