# ruff: noqa: E501  # prompts are long lines
"""A third set, written when the rules were finished: `test_messages` holds what they make of it, misses included."""

from __future__ import annotations

import json
from typing import Any

from prompt_cases import BEES, CODE, GLASS, RECIPE, RIVER, Q, _all, _each, _in, _json, _user

POSITIVE: dict[str, list[dict[str, Any]]] = {
    "helpdesk": _user(f"Help article excerpts:\n\n{_all()}\n\nA customer asks: {Q}\nWrite a short reply."),
    "curly": _user(f"CONTEXT = {{\n{_all()}\n}}\nQUESTION = {Q}"),
    "rag-fusion": _user(f"Question: {Q}\n\nHere is the retrieved information, best first:\n\n{_each('(%N) %D', chr(10) * 2)}\n\nFinal answer:"),
    "xml-upper": _user(f"<CONTEXT>\n{_all()}\n</CONTEXT>\n<QUESTION>{Q}</QUESTION>"),
    "evidence-block": _user(f"Evidence:\n- {_in(RIVER)}\n- {_in(GLASS)}\n- {_in(BEES)}\n\nClaim to check: worker bees live longer in winter. Is that so?"),
    "ref-brackets": _user(f"You may cite with [^1].\n\n{_each('[^%N]: %D', chr(10))}\n\n{Q}"),
    "table-of-results": _user(f"search_results:\n{_json(key='snippet')}\nuser_question: {Q}"),
    "jsonl": _user("Documents, one JSON object a line:\n" + "\n".join(json.dumps({"id": i, "text": _in(d)}, ensure_ascii=False) for i, d in enumerate([RIVER, GLASS, BEES])) + f"\n\n{Q}"),
    "wiki": _user(f"Wikipedia extract:\n\n{_in(BEES + ' ' + RIVER + ' ' + GLASS)}\n\nQ: {Q}\nA:"),
    "spanish": _user(f"Contexto:\n{_in('El río Ebro nace en Fontibre y desemboca en el mar Mediterráneo. Tiene unos 930 kilómetros. ' * 6)}\n\nPregunta: ¿Dónde nace el Ebro?\nRespuesta:"),
    "japanese": _user(f"以下の情報をもとに質問に答えてください。\n\n参考情報：\n{_in('富士山は日本で最も高い山です。標高は三千七百七十六メートルあります。毎年多くの人が登ります。' * 8)}\n\n質問：富士山の高さは？"),
    "tool-web": [*_user(Q), {"role": "tool", "tool_call_id": "1", "content": json.dumps({"organic": [{"title": f"t{i}", "link": f"https://x/{i}", "snippet": _in(d)} for i, d in enumerate([RIVER, GLASS, BEES])]}, ensure_ascii=False)}],
    "email-thread": _user(f"<source id=\"mail-1\">{_in(RIVER)}</source>\n<source id=\"mail-2\">{_in(BEES)}</source>\n\nFrom these mails: {Q}"),
    "plain-paste": _user(_in("\n\n".join([RIVER, GLASS, BEES, RIVER, GLASS])) + f"\n\n---\n\n{Q}"),
}  # fmt: skip

NEGATIVE: dict[str, list[dict[str, Any]]] = {
    "code-with-docs": _user(f"Add docstrings to this.\n\nSource:\n{CODE * 3}"),
    "letter-of-motivation": _user("Make this more convincing, will you?\n\n" + "I am applying for the post of baker, which I saw in your window. I have baked since I was ten. " * 14),
    "lyrics-translate": _user("Text:\n" + "The night is long and the road is wet, and nobody has come here yet.\n" * 20 + "\nCan you translate it to Spanish?"),
    "survey": _user("Rate each answer from 1 to 5.\n" + "\n".join(f"Answer {i}: {RECIPE[:120]}" for i in range(12))),
    "meeting": _user("Write minutes of this meeting.\n\n" + "\n".join(f"{'ANNA' if i % 2 else 'BEN'}: We should move the launch to week {i}, since the tests are late and the room is taken." for i in range(24))),
    "quiz": _user("Make ten quiz questions about this text:\n\n" + RIVER + " " + GLASS + " " + BEES),
    "config-help": _user("Is this right?\n\n" + "\n".join(f"server_{i}.timeout={i * 10}\nserver_{i}.retry=true" for i in range(30))),
    "css": _user("Why is the footer not at the bottom?\n\n" + ".a%d { margin: 0; padding: 2px; color: #fff; }\n" * 30),
    "dialogue-novel": _user("How can I make this dialogue better?\n\n" + "\"You are late,\" she said. \"The train was late,\" he said, and put his hat on the table. " * 14),
    "recipe-scale": _user("Scale this recipe to twelve people, please.\n\n" + RECIPE * 5),
}  # fmt: skip

QUERIES = {name: Q for name in POSITIVE} | {
    "evidence-block": "Is that so?",
    "spanish": "¿Dónde nace el Ebro?",
    "japanese": "富士山の高さは？",
}
