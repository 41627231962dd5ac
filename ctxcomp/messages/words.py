"""The words by which prompts name their context, their question and the rest."""

from __future__ import annotations

import functools
import re
from typing import Literal

LabelKind = Literal["strong", "weak", "question", "answer", "stop"]

_STRONG = frozenset(
    "documents document docs passages passage sources snippets snippet excerpts excerpt chunks chunk "
    "evidence contexts retrieved retrieval results".split()
)
_PLAIN = frozenset("documents docs passages sources snippets excerpts excerpt extract extracts chunks evidence".split())
_WEAK = frozenset(
    "context background information info text article articles content reference references knowledge notes facts "
    "source data material materials paragraph paragraphs transcript report page paper papers section sections".split()
)
_FILLERS = frozenset(
    "the a an relevant retrieved following additional given provided supporting search web knowledge base reference "
    "source sources background from here are is some useful related context contextual information of and pieces piece "
    "top k user company internal wikipedia database vector store for this question query your my below these found "
    "external official extracted parts part long document documents article text passages list".split()
)
_QUESTION = frozenset("question questions query queries q inquiry asks".split())
_QUESTION_FILLERS = frozenset(
    "the a user users user's users' customer customer's my your current new original follow up followup final actual "
    "standalone search input here is this human s latest last based on".split()
)
_ANSWER = frozenset("answer answers response a output reply solution".split())
_ANSWER_FILLERS = frozenset(
    "the your helpful final short brief concise detailed assistant s ai best in markdown".split()
)
_STOP = frozenset(
    "instructions instruction task tasks history conversation chat examples example rules rule guidelines format "
    "requirements constraints human user assistant system ai goal role".split()
)
_STOP_FILLERS = _ANSWER_FILLERS | frozenset("previous prior current so far output additional important key log".split())

# Whole labels in other languages, the commonest by far in retrieval prompts.
_BY_KIND: dict[LabelKind, str] = {
    "strong": "dokumente quellen auszüge documentos fuentes fragmentos fontes trechos extraits documenti fonti brani "
    "документы источники фрагменты 参考资料 参考文档 参考文献 检索结果 相关文档 已知信息 参考情報 検索結果 문서",
    "weak": "kontext hintergrund contexte contexto contesto контекст 上下文 背景 资料 コンテキスト 文脈 情報 문맥 "
    "컨텍스트 سياق संदर्भ bağlam",
    "question": "frage anfrage pregunta consulta pergunta domanda vraag вопрос запрос 问题 用户问题 質問 問い 질문 "
    "سؤال प्रश्न soru pytanie fråga",
    "answer": "antwort réponse respuesta resposta risposta antwoord ответ 回答 答案 답변 答え إجابة उत्तर cevap",
}
_OTHER: dict[str, LabelKind] = {word: kind for kind, words in _BY_KIND.items() for word in words.split()}

_POINTERS = frozenset("following below provided given these retrieved here based using use above".split())
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")


@functools.lru_cache(maxsize=4096)
def label_kind(label: str, alone: bool = False) -> LabelKind | None:
    """What the words before a colon, or of a heading, announce; None for anything else.

    Parameters
    ----------
    alone: nothing else stands on its line, so that a few unknown words are no matter: "Help article excerpts:".
    """
    label = label.strip().lower()
    if label in _OTHER:
        return _OTHER[label]
    words = [word for word in _WORD.findall(label) if not word.isdigit()]
    if not 0 < len(words) <= 7:
        return None
    held = set(words)
    if held & _QUESTION and held <= _QUESTION | _QUESTION_FILLERS:
        return "question"
    if held & _ANSWER and held <= _ANSWER | _ANSWER_FILLERS:
        return "answer"
    if held & _STOP and held <= _STOP | _STOP_FILLERS:
        return "stop"
    if held & _STRONG and held <= _STRONG | _WEAK | _FILLERS:
        return "strong"
    if held & _WEAK and held <= _WEAK | _FILLERS:
        plain = held & {"relevant", "retrieved", "search", "knowledge"} or held >= {"context", "information"}
        return "strong" if len(words) > 1 and plain else "weak"
    return "strong" if alone and len(words) <= 5 and words[-1] in _PLAIN else None


_WHOLE = re.compile(
    r"\b(?:translat|proofread|proof-read|rewrit|rephras|paraphras|grammar|spelling|typo|summar|shorten|polish|improv|"
    r"continue|make (?:this|these|it|my|the)\b|better|convert|extract\b|classif|categori|reformat|critique|feedback|"
    r"sort (?:the|these|this|them|by)|review|übersetz|korrigier|zusammenfass|fasse|tradui|résum|corrige|traduc|resum|"
    r"riassum|перевед|исправ|кратко)|翻译|总结|润色|改写|翻訳|要約|校正",
    re.I,
)


def needs_the_whole(text: str) -> bool:
    """Whether a task needs all of its text, as a translation does."""
    return bool(_WHOLE.search(text))


def announces_context(text: str) -> bool:
    """Whether a sentence points at a context: "Use the following pieces of context to answer …"."""
    words = {word for word in _WORD.findall(text.lower())}
    return bool(words & _POINTERS and words & (_STRONG | _WEAK))


@functools.lru_cache(maxsize=4096)
def is_context_tag(name: str) -> Literal["container", "passage"] | None:
    """Whether an XML-like tag of that name holds context: many passages, or one."""
    words = [word.rstrip("0123456789") for word in re.split(r"[_.:-]+", name.lower())]
    words = ["knowledgebase" if word == "base" and "knowledge" in words else word for word in words if word]
    if not words:
        return None
    last = words[-1]
    other = _OTHER.get(last)
    if last in _CONTAINERS or set(words) & {"retrieved", "retrieval"} or other in ("strong", "weak"):
        return "container"
    return "passage" if last in _PASSAGES else None


_CONTAINERS = frozenset(
    "context contexts documents docs passages sources results snippets excerpts chunks references evidence articles "
    "knowledge knowledgebase background".split()
)
_PASSAGES = frozenset("document doc passage source result snippet excerpt chunk reference article".split())
BODY_TAGS = frozenset(
    "document_content content contents page_content text body passage_text chunk_text document_contents snippet "
    "passage excerpt chunk".split()
)
"""Tags inside a passage that hold its text; its other tags name it."""
