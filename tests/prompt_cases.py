"""Prompts as people send them, in our own words after public conventions: ⟦ and ⟧ enclose the text that is context.

`POSITIVE` hold context, `NEGATIVE` none that may be touched. Each is the messages of one call; `QUERIES` is what must
be in the query that is found.
"""

# ruff: noqa: E501  # prompts are long lines

from __future__ import annotations

import json
from typing import Any

RIVER = (
    "The Rhine rises in the Swiss canton of Graubünden and flows for about 1,230 kilometres to the North Sea. "
    "It passes through Lake Constance and forms the border between Germany and France for a stretch. "
    "Below Cologne it is one of the busiest waterways in the world. Barges carry coal, ore and containers."
)
GLASS = (
    "Glass is an amorphous solid that forms when a melt cools too fast to crystallise. Soda-lime glass, the most common "
    "kind, is made of silica, soda and lime. Adding boron oxide gives borosilicate glass, which expands less when it is "
    "heated. The transition from melt to glass happens over a range of temperatures."
)
BEES = (
    "A worker bee lives for about six weeks in summer and for several months in winter. She starts by cleaning cells, "
    "then feeds larvae, builds comb, and at last flies out to forage. A colony holds up to 50,000 workers. "
    "The queen lays up to 2,000 eggs a day in spring."
)
FAQ = (
    "Question: How long does delivery take?\nAnswer: Orders inside the country arrive within three working days. "
    "Parcels abroad take up to two weeks, since customs may hold them.\n\nQuestion: Can I return a lamp?\n"
    "Answer: Lamps may be returned within thirty days if the seal is whole. Bulbs are excluded from returns."
)
MARKDOWN = (
    "## Installing the agent\n\nDownload the package for your system and unpack it. Then start the service:\n\n"
    "```\nsudo systemctl start agent\n```\n\nThe agent listens on port 8125. It sends its data once a minute, and "
    "retries for an hour when the server cannot be reached.\n\n- The log is written to the system journal.\n"
    "- The configuration is read once, when the agent starts."
)
GERMAN = (
    "Der Kölner Dom ist eine römisch-katholische Kirche in Köln. Der Bau begann im Jahr 1248 und wurde erst 1880 "
    "vollendet. Die beiden Türme sind etwa 157 Meter hoch. Jedes Jahr besuchen ihn rund sechs Millionen Menschen, "
    "womit er zu den meistbesuchten Bauwerken des Landes gehört."
)
CHINESE = (
    "长城是中国古代的军事防御工程。它东起山海关，西至嘉峪关，总长度超过两万公里。现存的长城大多修建于明代。"
    "一九八七年，长城被列入世界文化遗产名录。每年有数百万名游客前来参观，其中八达岭段最为著名。"
    "修建长城的材料因地而异，山区多用石料，平原多用夯土，沙漠地区则使用红柳和芦苇。"
    "驻守的士兵用烽火传递消息，白天点烟，夜间举火。明代在沿线设立了九个军镇，分段管理防务。"
    "近年来，各地对长城进行了保护和修缮，并限制每日的游客人数。"
)
Q = "How long does a worker bee live in winter?"
DOCS = [RIVER, GLASS, BEES]


def _in(text: str) -> str:
    return f"⟦{text}⟧"


def _all(separator: str = "\n\n", docs: list[str] = DOCS) -> str:
    return separator.join(map(_in, docs))


def _user(text: str, *before: dict[str, Any]) -> list[dict[str, Any]]:
    return [*before, {"role": "user", "content": text}]


def _each(template: str, separator: str = "\n", docs: list[str] = DOCS) -> str:
    """One passage after the other; %N is its number from 1, %T its title, %D its text."""
    titles = ["The Rhine", "What glass is", "Bees in winter", "Delivery", "The agent"]
    return separator.join(
        template.replace("%N", str(i + 1)).replace("%T", titles[i]).replace("%D", _in(doc))
        for i, doc in enumerate(docs)
    )


def _json(docs: list[str] = DOCS, key: str = "content", indent: int | None = None, **more: Any) -> str:
    rows = [
        {"title": f"page {i}", "url": f"https://example.org/{i}", key: _in(doc), **more} for i, doc in enumerate(docs)
    ]
    return json.dumps(rows, indent=indent, ensure_ascii=False)


SYSTEM = {"role": "system", "content": "You answer questions from the sources you are given, and cite them."}
DASHES = "-" * 21
TITLED, RULED, CHUNK = "Title: %T\nText: %D", "\n---\n", "Chunk %N (page %N):\n%D"

POSITIVE: dict[str, list[dict[str, Any]]] = {
    "hub-rag-prompt": _user(
        "You are an assistant that answers questions. Use the pieces of retrieved context below to answer. If the answer "
        f"is not there, say that you do not know. Three sentences at most.\nQuestion: {Q} \nContext: {_all()} \nAnswer:"
    ),
    "stuff-chain": _user(
        "Use the following pieces of context to answer the question at the end. If you don't know the answer, just say "
        f"so, don't make one up.\n\n{_all()}\n\nQuestion: {Q}\nHelpful Answer:"
    ),
    "retrieval-chain": _user(
        f"Answer the following question based only on the provided context:\n\n<context>\n{_all()}\n</context>\n\n"
        f"Question: {Q}"
    ),
    "retrieval-tutorial": _user(
        "Answer with the help of this context.\n\nContext:\n"
        + "\n\n".join(f"Source: {{'source': 'https://x.org/{i}', 'page': {i}}}\nContent: {_in(d)}" for i, d in enumerate(DOCS))
        + f"\n\nQuestion: {Q}"
    ),
    "llama-index-qa": _user(
        f"Context information is below.\n{DASHES}\n{_all()}\n{DASHES}\nGiven the context information and not prior "
        f"knowledge, answer the query.\nQuery: {Q}\nAnswer: "
    ),
    "llama-index-metadata": _user(
        f"Context information is below.\n{DASHES}\n"
        + "\n\n".join(f"page_label: {i}\nfile_path: data/{i}.pdf\n\n{_in(d)}" for i, d in enumerate(DOCS))
        + f"\n{DASHES}\nGiven the context information and not prior knowledge, answer the query.\nQuery: {Q}\nAnswer: "
    ),
    "llama-index-refine": _user(
        f"The original query is as follows: {Q}\nWe have provided an existing answer: Six weeks.\nWe have the "
        "opportunity to refine the existing answer (only if needed) with some more context below.\n------------\n"
        f"{_all()}\n------------\nGiven the new context, refine the original answer to better answer the query. If the "
        "context isn't useful, return the original answer.\nRefined Answer: "
    ),
    "llama-index-citations": _user(
        "Please provide an answer based solely on the provided sources. When referencing information from a source, "
        "cite the appropriate source(s) using their corresponding numbers.\nBelow are several numbered sources of "
        "information:\n------\n" + _each("Source %N:\n%D\n") + f"\n------\nQuery: {Q}\nAnswer: "
    ),
    "haystack-documents": _user(
        "Given these documents, answer the question.\nDocuments:\n"
        + "".join(f"\n    {_in(doc)}\n" for doc in DOCS)
        + f"\nQuestion: {Q}\nAnswer:"
    ),
    "haystack-context": _user(
        f"Given the following information, answer the question.\n\nContext:\n{_all(chr(10))}\n\nQuestion: {Q}\nAnswer:"
    ),
    "haystack-references": _user(
        "Answer the question using the references below, and name them in brackets.\n\nReferences:\n"
        f"{_each('Document[%N]: %D')}\n\nQuestion: {Q}; Answer:"
    ),
    "cookbook-quotes": _user(
        'Use the below article on nature to answer the subsequent question. If the answer cannot be found, write "I '
        f"don't know.\"\n\nArticle:\n\"\"\"\n{_in(RIVER + ' ' + GLASS + ' ' + BEES)}\n\"\"\"\n\nQuestion: {Q}"
    ),
    "cookbook-sections": _user(
        "Use the articles delimited by triple quotes below to answer the question.\n"
        + "".join(f'\nArticle section:\n"""\n{_in(doc)}\n"""' for doc in DOCS)
        + f"\n\nQuestion: {Q}"
    ),
    "triple-quotes-bare": _user(
        f"Answer from the article below, delimited by triple quotes.\n\n\"\"\"\n{_all()}\n\"\"\"\n\n{Q}"
    ),
    "anthropic-documents": _user(
        "<documents>\n"
        + _each(
            '<document index="%N">\n<source>%T.pdf</source>\n<document_content>\n%D\n</document_content>\n</document>'
        )
        + f"\n</documents>\n\nFind quotes from the documents that matter for the question, then answer it.\n\n{Q}"
    ),
    "anthropic-search-results": _user(
        "Here are the search results:\n<search_results>\n"
        + _each('<item index="%N">\n<source>https://example.org/%N</source>\n<page_content>\n%D\n</page_content>\n</item>')
        + f"\n</search_results>\nUsing them, answer in one sentence: {Q}"
    ),
    "tags-attributes": _user(_each('<doc id="%N" title="%T">%D</doc>') + f"\n\n{Q}", SYSTEM),
    "tags-sources-title": _user(
        "<sources>\n" + _each("<source>\n<title>%T</title>\n<text>%D</text>\n</source>") + f"\n</sources>\n<question>{Q}</question>"
    ),
    "tags-mentioned-before": _user(
        "Answer from the text in the <context></context> tags. Put the answer into <answer> tags.\n"
        f"<context>\n{_all()}\n</context>\n{Q}"
    ),
    "tags-markdown-open-fence": _user(
        f"<context>\n{_in(MARKDOWN[: MARKDOWN.rindex('```')] + RIVER)}\n</context>\n\n<question>Which port is used?</question>"
    ),
    "perplexity": _user(f"Query: {Q}\n\nSearch results:\n\n" + _each("[%N] %T\nhttps://example.org/%N\n%D", "\n\n"), SYSTEM),
    "numbered-bare": _user(_each("[%N] %D") + f"\n\nUsing the passages above, {Q[0].lower()}{Q[1:]}"),
    "lost-in-the-middle": _user(
        "Write a high-quality answer for the given question using only the provided search results (some of which might "
        f"be irrelevant).\n\n{_each('Document [%N](Title: %T) %D')}\n\nQuestion: {Q}\nAnswer:"
    ),
    "titled-passages": _user(
        f"Knowledge base:\n{_each(TITLED, chr(10) * 2)}\n\nCustomer question: {Q}"
    ),
    "markdown-headings": _user(f"# Task\nAnswer the question.\n\n## Context\n{_all()}\n\n## Question\n{Q}"),
    "vercel-block": _user(
        "The assistant takes into account any CONTEXT BLOCK that is provided.\nSTART CONTEXT BLOCK\n"
        f"{_all()}\nEND OF CONTEXT BLOCK\n\n{Q}"
    ),
    "rules-between": _user(f"Relevant excerpts:\n\n{_all(RULED)}\n\nQuestion: {Q}"),
    "json-results": _user(f"Web search results:\n{_json(indent=2)}\n\nAnswer with their help: {Q}"),
    "json-bare": _user(f"{_json(key='page_content')}\n\n{Q}"),
    "faq-documents": _user(
        f"Answer the customer from the documents.\n\nDocuments:\n{_in(FAQ)}\n\n{_in(RIVER)}\n\nQuestion: Can lamps go back?\nAnswer:"
    ),
    "second-turn": [
        *_user("Hello! Can you help me with beekeeping?"),
        {"role": "assistant", "content": "Of course. What would you like to know?"},
        *_user(f"Context:\n{_all()}\n\nQuestion: {Q}"),
    ],
    "few-shot-last": _user(
        "Context: Ada wrote the notes in 1843.\nQuestion: When were they written?\nAnswer: 1843\n\n"
        f"Context: {_all()}\nQuestion: {Q}\nAnswer:"
    ),
    "content-parts": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": f"<context>\n{_all()}\n</context>"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "text", "text": Q},
            ],
        }
    ],
    "tool-plain": [
        *_user(Q),
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "search", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": _in("\n\n".join(DOCS))},
    ],
    "tool-json": [
        *_user(Q),
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "search", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": f'{{"query": "bees", "results": {_json(score=0.5)}}}'},
    ],
    "long-text-question-last": _user(_in("\n\n".join([*DOCS, FAQ.replace("Question: ", "").replace("Answer: ", "")])) + f"\n\n{Q}"),
    "long-text-question-first": _user(f"{Q}\n\n" + _in("\n\n".join([BEES, RIVER, GLASS, BEES, RIVER]))),
    "german": _user(
        f"Beantworte die Frage mit Hilfe des Kontexts.\n\nKontext:\n{_in(GERMAN)}\n\n{_in(GERMAN[::-1].title() + '.')}\n\nFrage: Wann wurde "
        "der Dom vollendet?\nAntwort:"
    ),
    "chinese": _user(f"请根据以下上下文回答问题。\n\n上下文：\n{_in(CHINESE)}\n\n问题：长城总长度是多少？"),
    "pdf-chat": _user(f"Retrieved chunks:\n\n{_each(CHUNK, chr(10) * 2)}\n\nUser question: {Q}"),
}  # fmt: skip

CODE = (
    "class Pool:\n    def __init__(self, size):\n        self.size = size\n        self.free = [Worker() for _ in range(size)]\n\n"
    "    def take(self):\n        while not self.free:\n            time.sleep(0.1)\n        return self.free.pop()\n\n"
    "    def give(self, worker):\n        self.free.append(worker)\n"
)
STORY = (
    "I have worked as a nurse for eleven years, and I am thinking about leaving my hospital. My shifts are twelve hours "
    "long, and I come home too tired to cook. My husband says I should wait until our daughter finishes school. We have "
    "saved some money, but not enough for a year. I could train as a teacher; I like explaining things, and my friends "
    "say I am patient. On the other hand I would lose my pension rights and my seniority. My sister made such a change "
    "and was happy with it after two hard years. I am forty-one, healthy, and I do not mind studying in the evening. "
)
RECIPE = (
    "Take 500 grams of flour, a pinch of salt and a spoon of sugar. Warm the milk and stir the yeast into it. Knead the "
    "dough for ten minutes and let it rest for an hour. Shape it into a loaf and bake it at 220 degrees. "
)

NEGATIVE: dict[str, list[dict[str, Any]]] = {
    "debug-fenced": _user(f"Why does this hang when all workers are taken?\n\n```python\n{CODE * 3}```\n\nContext: it runs under gunicorn."),
    "debug-bare": _user(f"Why does this hang?\n\n{CODE * 4}"),
    "debug-labelled": _user(f"Context: I maintain this pool.\nSource:\n```python\n{CODE * 3}```\nQuestion: where is the race?"),
    "html": _user(
        "Why is my page empty?\n\n<html><body><article class=\"post\"><source src=\"a.webm\"><document><div id=\"x\" class=\"y\">"
        + '<p style="color:red" onclick="run({a: 1});"></p>' * 20 + "</div></document></article></body></html>"
    ),
    "xml-config": _user(
        "How do I enable the cache here?\n\n<context>\n" + "".join(
            f'  <bean id="cache{i}" class="org.example.Cache{i}"><property name="size" value="{i}"/></bean>\n' for i in range(12)
        ) + "</context>"
    ),
    "story": _user(STORY * 3 + "\n\nWhat should I do?"),
    "story-background": _user(f"Background: {STORY * 2}\n\nQuestion: should I leave?"),
    "translate": _user("Translate the following text into French:\n\n" + "\n\n".join(DOCS)),
    "rewrite": _user("Please fix the grammar in the following article:\n\n" + "\n\n".join(DOCS)),
    "summarise": _user("Summarise the following text in two sentences.\n\nText:\n" + "\n\n".join(DOCS)),
    "few-shot": _user(
        "\n\n".join(f"Q: What is the capital of country number {i}, and how many people live in it today?\nA: City {i}, with about {i} million inhabitants in and around it." for i in range(12))
        + "\n\nQ: And of country number 12?\nA:"
    ),
    "few-shot-labels": _user(
        "Classify the sentiment.\n\n" + "\n\n".join(f"Text: The film number {i} was long, and the music was loud, but the actors saved it in the end.\nLabel: positive" for i in range(12))
        + "\n\nText: It was dull.\nLabel:"
    ),
    "history": [
        *_user("Tell me about bread. " + RECIPE * 3),
        {"role": "assistant", "content": RECIPE * 6},
        *_user("And what if I have no yeast?"),
    ],
    "history-in-one": _user(
        "Conversation:\n" + "".join(f"Human: {RECIPE}\nAssistant: {RECIPE}\n" for _ in range(3)) + "Human: And without yeast?\nAssistant:"
    ),
    "stack-trace": _user(
        "What does this mean?\n\nTraceback (most recent call last):\n"
        + "".join(f'  File "/srv/app/mod{i}.py", line {i}, in run\n    return self._next({i}, retries={i})\n' for i in range(25))
        + "KeyError: 'user_id'"
    ),
    "log": _user(
        "Why did it stop?\n\n" + "\n".join(f"2024-05-0{1 + i % 9} 12:{i:02d}:01 INFO worker-{i} processed batch={i * 7} in {i}ms" for i in range(40))
    ),
    "json-to-csv": _user(
        "Turn this into CSV:\n" + json.dumps([{"text": RECIPE, "label": "food", "n": i} for i in range(6)])
    ),
    "json-messages": _user(
        "Which of these answers is rude?\n" + json.dumps([{"role": "assistant", "content": RECIPE, "id": str(i)} for i in range(6)])
    ),
    "reference-list": _user(
        "Bring these references into APA style:\n" + "\n".join(f"[{i}] Smith, J., and Miller, K. On the number {i} and its many uses in the theory of bread. Journal of Loaves {i}, pages {i} to {i + 9}." for i in range(1, 9))
    ),
    "numbered-questions": _user(
        "Please answer each of these:\n" + "\n".join(f"{i}. If a train leaves at {i} o'clock and drives at {i * 10} kilometres an hour, when does it arrive in a town that is {i * 7} kilometres away, and why?" for i in range(1, 10))
    ),
    "system-context": [{"role": "system", "content": f"Answer from this.\n<context>\n{RIVER}\n{GLASS}\n{BEES}\n</context>"}, *_user(Q)],
    "short": _user(f"<context>Bees are insects.</context>\n\n{Q}"),
    "tool-code": [
        *_user("Fix the pool."),
        {"role": "tool", "tool_call_id": "c1", "content": CODE * 4},
    ],
    "tool-config": [
        *_user("Is the cache on?"),
        {"role": "tool", "tool_call_id": "c1", "content": json.dumps({f"setting_{i}": {"value": i, "on": True} for i in range(40)}, indent=1)},
    ],
    "email": _user(
        "Write a friendly reply to this email, and accept the invitation.\n\nDear Jo,\n\n" + RECIPE * 5 + "\n\nAll the best,\nSam"
    ),
    "essay-request": _user(
        "Write an essay of 800 words. Context: it is for a school paper, and the readers are fourteen years old. "
        + "Use simple words and short sentences. Begin with a scene. " * 12 + "Can you do that?"
    ),
    "data-table": _user("Which month was best?\n\n" + "\n".join(f"| month {i} | {i * 17} | {i * 3} |" for i in range(60))),
}  # fmt: skip

QUERIES = {
    name: Q
    for name in POSITIVE
    if name not in {"tags-markdown-open-fence", "faq-documents", "german", "chinese", "numbered-bare"}
} | {
    "tags-markdown-open-fence": "Which port is used?",
    "faq-documents": "Can lamps go back?",
    "german": "Wann wurde der Dom vollendet?",
    "chinese": "长城总长度是多少？",
    "numbered-bare": "how long does a worker bee live",
}


def unmarked(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], set[tuple[int, int | None, int]]]:
    """The messages without the marks, and the characters that the marks enclose: (message, part, offset)."""
    inside: set[tuple[int, int | None, int]] = set()

    def strip(text: str, i: int, part: int | None) -> str:
        plain: list[str] = []
        depth = 0
        for character in text:
            if character in "⟦⟧":
                depth += 1 if character == "⟦" else -1
                continue
            if depth and not character.isspace():
                inside.add((i, part, len(plain)))
            plain.append(character)
        return "".join(plain)

    fresh = []
    for i, message in enumerate(messages):
        content = message["content"]
        if isinstance(content, str):
            content = strip(content, i, None)
        elif content is not None:
            content = [
                p | {"text": strip(p["text"], i, j)} if p["type"] == "text" else p for j, p in enumerate(content)
            ]
        fresh.append(message | {"content": content})
    return fresh, inside
