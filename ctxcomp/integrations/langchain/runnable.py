"""`CompressContext`: the runnable that stands between a retriever and a prompt, ``compress | prompt | model``."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.runnables import RunnableConfig, RunnableSerializable
from langchain_core.runnables.config import run_in_executor
from langchain_core.runnables.utils import ConfigurableFieldSpec, get_unique_config_specs

from ctxcomp.errors import CtxcompError
from ctxcomp.integrations.langchain.contexts import BUDGET_ID, ContextFields, Outcome
from ctxcomp.integrations.langchain.tracing import areport, report


class CompressContext(ContextFields, RunnableSerializable[Any, Any]):
    """Compresses the context of ``{"question": ..., "context": documents}`` and hands the rest on as it is.

    The context is a list of `Document` or str, or one str. The result is the same dict with the context replaced,
    and under ``metadata_key`` the spans (characters of the document at that position) and statistics. Bare documents
    instead of a dict are compressed for ``query``: ``compress.bind(query="...")``, "" for none. `batch` and `abatch`
    compress all inputs in one go. The budget of one call is ``config={"configurable": {"ctxcomp_budget": {"tokens":
    400}}}``. Runs show method, tokens and keep in their metadata, and in a custom event "ctxcomp".
    """

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """What ``config["configurable"]`` takes."""
        budget = ConfigurableFieldSpec(
            id=BUDGET_ID,
            annotation=dict[str, float],
            name="Budget",
            description='What may remain of the context: {"tokens": N} or {"keep": F}.',
        )
        return get_unique_config_specs([*super().config_specs, budget])

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Compress one context.

        Parameters
        ----------
        kwargs: ``query``, in place of the input's question.

        Raises
        ------
        InputError: the input is no dict with a question and documents, and no list of documents with a ``query``.
        BudgetError: text that must be kept does not fit into the budget.
        """
        return self._call_with_config(self._one, input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """As `invoke`; the work is done in a thread."""
        return await self._acall_with_config(self._aone, input, config, **kwargs)

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Compress several contexts in one go; one that fails does not fail the others."""
        return self._batch_with_config(self._many, inputs, config, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """As `batch`; the work is done in a thread."""
        return await self._abatch_with_config(
            self._amany, inputs, config, return_exceptions=return_exceptions, **kwargs
        )

    def _one(
        self, given: Any, run_manager: CallbackManagerForChainRun, config: RunnableConfig, query: str | None = None
    ) -> Any:
        return _only(self._many([given], [run_manager], [config], query))

    async def _aone(
        self, given: Any, run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig, query: str | None = None
    ) -> Any:
        return _only(await self._amany([given], [run_manager], [config], query))

    def _many(
        self,
        inputs: list[Any],
        run_manager: list[CallbackManagerForChainRun],
        config: list[RunnableConfig],
        query: str | None = None,
    ) -> list[Any]:
        outcomes = self.outcomes(inputs, config, query)
        for outcome, run, child in zip(outcomes, run_manager, config, strict=True):
            if isinstance(outcome, Outcome):
                report(run, child, outcome.stats)
        return [outcome.output if isinstance(outcome, Outcome) else outcome for outcome in outcomes]

    async def _amany(
        self,
        inputs: list[Any],
        run_manager: list[AsyncCallbackManagerForChainRun],
        config: list[RunnableConfig],
        query: str | None = None,
    ) -> list[Any]:
        outcomes = await run_in_executor(None, self.outcomes, inputs, config, query)
        for outcome, run, child in zip(outcomes, run_manager, config, strict=True):
            if isinstance(outcome, Outcome):
                await areport(run, child, outcome.stats)
        return [outcome.output if isinstance(outcome, Outcome) else outcome for outcome in outcomes]


def _only(outputs: list[Any]) -> Any:
    output = outputs[0]
    if isinstance(output, CtxcompError):
        raise output
    return output
