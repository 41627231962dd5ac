"""More prompts like those of `prompt_cases`, written before the rules had seen any of them."""

# ruff: noqa: E501  # prompts are long lines

from __future__ import annotations

import json
from typing import Any

from prompt_cases import BEES, GERMAN, GLASS, MARKDOWN, RECIPE, RIVER, STORY, Q, _all, _each, _in, _json, _user

POSITIVE: dict[str, list[dict[str, Any]]] = {
    "instructions-first": _user(
        "INSTRUCTIONS:\n- Answer the users QUESTION using the DOCUMENT text above.\n- Keep your answer grounded in the "
        f"facts of the DOCUMENT.\n\nDOCUMENT:\n{_all()}\n\nQUESTION:\n{Q}"
    ),
    "support-bot": _user(
        "You are a support agent. Given the following sections from the manual, answer the question using only that "
        f"information. If you are unsure, say \"Sorry, I don't know how to help with that.\"\n\nContext sections:\n{_all()}"
        f"\n\nQuestion: \"\"\"\n{Q}\n\"\"\"\n\nAnswer as markdown:"
    ),
    "xml-retrieved-chunks": _user(
        "<retrieved_chunks>\n" + _each('<chunk id="%N" score="0.8%N">%D</chunk>') + f"\n</retrieved_chunks>\n\n{Q}"
    ),
    "user-query-tags": _user(
        f"<user_query>{Q}</user_query>\n<knowledge_base>\n{_all()}\n</knowledge_base>\nReply in one sentence."
    ),
    "bracket-doc": _user(_each("[doc%N] %D", "\n\n") + f"\n\nAnswer with citations such as [doc2]. {Q}"),
    "equals-rules": _user(
        f"Here are some excerpts from the handbook:\n\n==========\n{_all()}\n==========\n\nBased on these excerpts, {Q}"
    ),
    "source-dashes": _user(
        "Answer the question from these extracted parts of a long document, with references (\"SOURCES\").\n\n"
        f"QUESTION: {Q}\n=========\n{_each('Content: %D' + chr(10) + 'Source: %N-pl')}\n=========\nFINAL ANSWER:"
    ),
    "markdown-sources": _user("### Sources\n\n" + _each("**Source %N: %T**\n\n%D", "\n\n") + f"\n\n### Question\n\n{Q}"),
    "ordered-list": _user(f"Passages:\n{_each('%N. %D')}\n\nQuery: {Q}"),
    "json-in-fence": _user(f"Here are the retrieved documents:\n```json\n{_json(indent=1)}\n```\n\n{Q}"),
    "json-object": _user(f'{{"documents": {_json(key="text")}}}\n\nUse the documents above to answer: {Q}'),
    "assistant-then-context": [
        *_user("What can you tell me about bees?"),
        {"role": "assistant", "content": "They are insects that make honey."},
        *_user(f"{Q}\n\nUse this background information to answer:\n\n{_all()}"),
    ],
    "context-in-own-message": [
        *_user(f"Context information:\n\n{_all()}"),
        {"role": "assistant", "content": "Thank you, what is your question?"},
        *_user(Q),
    ],
    "article-title-body": _user(f"Article: The bee\n\n{_in(BEES + ' ' + GLASS)}\n\nBased on the article, {Q}"),
    "french": _user(
        "Utilise le contexte suivant pour répondre à la question.\n\nContexte : "
        + _in("La tour Eiffel a été construite entre 1887 et 1889 par l'entreprise de Gustave Eiffel. " * 6)
        + "\n\nQuestion : Quand la tour a-t-elle été construite ?\nRéponse :"
    ),
    "german-tags": _user(f"<kontext>\n{_in(GERMAN)}\n</kontext>\n<frage>Wie hoch sind die Türme?</frage>"),
    "tool-numbered": [
        *_user(Q),
        {"role": "tool", "tool_call_id": "a", "content": _each("Result %N:\nTitle: %T\nURL: https://example.org/%N\n%D", "\n\n")},
    ],
    "tool-documents": [
        *_user(Q),
        {"role": "tool", "tool_call_id": "a", "content": "<documents>" + _each("<document>%D</document>") + "</documents>"},
    ],
    "rewritten-query": _user(
        f"Chat history:\nuser: hello\nassistant: hi\n\nRetrieved context:\n{_all()}\n\nCurrent question: {Q}\n"
        "Answer in the language of the question."
    ),
    "markdown-docs": _user(f"Docs:\n\n{_in(MARKDOWN)}\n\n{_in(RIVER)}\n\nUser: which port does the agent listen on?"),
}  # fmt: skip

SQL = "SELECT user_id, COUNT(*) AS n FROM orders WHERE created_at > '2024-01-01' GROUP BY user_id HAVING n > 3;\n"

NEGATIVE: dict[str, list[dict[str, Any]]] = {
    "sql": _user("Why is this slow?\n\n" + SQL * 12),
    "diff": _user(
        "Review this diff:\n\n" + "".join(f"- value_{i} = old({i})\n+ value_{i} = new({i}, strict=True)\n" for i in range(30))
    ),
    "poem": _user("Continue this poem:\n\n" + "The river runs below the hill,\nand all the wheels are turning still,\n" * 14),
    "role-play": _user(
        "You are a detective in 1920s Berlin. " + "The rain never ends, and your office smells of tobacco. " * 16
        + "\n\nBackground: a client was found dead. Stay in character. Ready?"
    ),
    "proofread": _user("Can you proofread this?\n\n" + RECIPE * 6),
    "letter": _user("Dear landlord,\n\n" + STORY * 3 + "\n\nIs this letter polite enough?"),
    "yaml": _user(
        "What is wrong with my deployment?\n\n" + "".join(f"- name: app{i}\n  image: registry/app{i}:1.{i}\n  ports:\n    - containerPort: {8000 + i}\n" for i in range(15))
    ),
    "exam": _user(
        "Solve the exam.\n\n" + "\n\n".join(f"Question {i}: A shop sells {i} boxes on Monday and {i * 2} on Tuesday. Each box holds {i + 3} lamps, and a tenth of them are broken. How many lamps are whole?" for i in range(1, 9))
    ),
    "ocr-list": _user("Sort these names.\n\n" + "\n".join(f"Person {i} Lastname{i}" for i in range(120))),
    "tool-terminal": [
        *_user("List the files."),
        {"role": "tool", "tool_call_id": "x", "content": "\n".join(f"-rw-r--r-- 1 root root {i * 37} Jan {1 + i % 28} 12:0{i % 10} file_{i}.txt" for i in range(60))},
    ],
    "extract-json": _user("Extract all names from this text as JSON.\n\n" + RIVER + "\n\n" + GLASS + "\n\n" + BEES),
    "persona-data": _user("Generate 5 more rows like these:\n" + json.dumps([{"name": f"n{i}", "content": RECIPE} for i in range(5)])),
}  # fmt: skip

QUERIES = {name: Q for name in POSITIVE} | {
    "french": "Quand la tour a-t-elle été construite ?",
    "german-tags": "Wie hoch sind die Türme?",
    "markdown-docs": "which port does the agent listen on?",
}
