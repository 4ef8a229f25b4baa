"""Reads the serving settings of a checkpoint, and proves those of a version with the chat template of its model."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contracts.manifests import FileEntry
from contracts.vocabulary import ServingSettings
from decisions.serving.settings import SERVING_FILE, SettingsRefused, assess_settings, combine, parse_settings, settle
from services.merger import domain
from services.merger.domain import serving
from services.merger.ports import Artifacts, Folder, Templates
from services.merger.rejections import raise_rejection
from shared.errors import Permanent

Turns = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ServingProof:
    """Reads and proves serving settings; a template runs in a process of its own, under limits."""

    artifacts: Artifacts
    templates: Templates

    async def read(self, checkpoint: Folder) -> ServingSettings | None:
        """Return the settings in a checkpoint's `serving.json`; None if it sets none.

        Raises:
            Permanent: `serving_invalid`.
        """
        texts = await asyncio.to_thread(self.artifacts.read_texts, checkpoint, (SERVING_FILE,))
        if SERVING_FILE not in texts:
            return None
        settings = parse_settings(texts[SERVING_FILE])
        refused = settings if isinstance(settings, SettingsRefused) else assess_settings(settings)
        if refused is not None:
            raise Permanent(refused.code, refused.reason, **refused.details)
        return combine(None, settings) if isinstance(settings, ServingSettings) else None

    async def prove(self, settings: ServingSettings | None, files: Sequence[FileEntry]) -> None:
        """Render conversations with the settings; do nothing without settings.

        Raises:
            Permanent: `serving_invalid` or `tools_not_rendered`.
        """
        settings = settle(settings)
        if settings is None:
            return
        model = await self._describe(files)
        raise_rejection(serving.assess_context(settings, model) or serving.assess_template(settings, model))
        if model.template is None:
            return
        if settings.template_options:
            raise_rejection(serving.assess_variables(settings, await self._variables(model.template)))
            await self._render(model, settings, domain.PROBE_CONVERSATION, "serving_invalid")
        if settings.tool_parser is not None:
            text = await self._render_tools(model, settings)
            raise_rejection(serving.assess_tool_rendering(text) or serving.assess_call_form(text, settings.tool_parser))

    async def complete(self, settings: ServingSettings | None, files: Sequence[FileEntry]) -> ServingSettings | None:
        """Return the settings with the tool parser that the chat template is written for, where that is certain.

        No parser is detected where the settings decline one.
        """
        settings = settings or ServingSettings()
        model = await self._describe(files)
        if settings.tool_parser is None and model.template is not None and "tools" in model.template:
            try:
                text = await self._render_tools(model, settings)
            except Permanent:
                text = ""  # a template for other conversations
            settings = settings.model_copy(update={"tool_parser": serving.find_tool_parser(text)})
        return settle(settings)

    async def _describe(self, files: Sequence[FileEntry]) -> serving.ModelDescription:
        folder = Folder("", tuple(files), "")
        return serving.describe_model(
            await asyncio.to_thread(self.artifacts.read_texts, folder, serving.DESCRIBING_FILES)
        )

    async def _variables(self, template: str) -> frozenset[str]:
        try:
            return await self.templates.variables_of(template)
        except Permanent as error:
            raise Permanent("serving_invalid", error.reason) from error

    async def _render_tools(self, model: serving.ModelDescription, settings: ServingSettings) -> str:
        return await self._render(model, settings, serving.TOOL_CONVERSATION, "tools_not_rendered", serving.TOOLS)

    async def _render(
        self,
        model: serving.ModelDescription,
        settings: ServingSettings,
        turns: Turns,
        code: serving.RenderingCode,
        tools: Turns | None = None,
    ) -> str:
        """Return a rendered conversation, without its system turn if the template rejects that."""
        variables: dict[str, Any] = {"documents": None, "add_generation_prompt": True, "tools": tools}
        variables |= {**model.special_tokens, **settings.template_options, "messages": turns}
        try:
            return await self.templates.render_with(model.template or "", variables)
        except Permanent as error:
            if error.code == "bad_request" and turns[0]["role"] == "system":
                return await self._render(model, settings, turns[1:], code, tools)
            what = "a conversation with tools" if tools else "a conversation with these template_options"
            raise Permanent(code, f"The chat template cannot render {what}: {error.reason}") from error
