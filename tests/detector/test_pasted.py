"""The rule on a user's text: how prompts with passages are really written, and what only looks like one."""

from __future__ import annotations

import time

import pytest

from groundwire.pasted import LIMIT, announced, pasted
from groundwire.prompts import grounded_messages
from groundwire.types import Passage

LIGHTHOUSE = "The lighthouse was finished in 1889 by a builder from Lisbon."
KEEPER = "It is 41 metres high, the keeper's log says."
QUESTION = "Who built the lighthouse?"
ARTICLE = (
    "The lighthouse on the northern cape was finished in 1889 by a builder from Lisbon, after eleven years of work.\n"
    "It replaced a wooden tower that burned down twice. The lamp came from Paris and could be seen for thirty miles.\n"
    "Ships had been lost on the reef in every winter before. Since 1964 the light has worked without a keeper."
)
CODE = "def area(r):\n    return 3.14 * r * r\n\nprint(area(2))\nfor i in range(10):\n    x = i\n    print(x)"

# Wordings of public prompts: what is around {passages} and {question}.
TEMPLATES = {
    "llamaindex": "Context information is below.\n---------------------\n{passages}\n---------------------\n"
    "Given the context information and not prior knowledge, answer the query.\nQuery: {question}\nAnswer: ",
    "llamaindex summary": "Context information from multiple sources is below.\n---------------------\n{passages}\n"
    "---------------------\nGiven the information from multiple sources and not prior knowledge, answer the query.\n"
    "Query: {question}\nAnswer: ",
    "llamaindex refine": "The original query is as follows: {question}\nWe have provided an existing answer: Unknown.\n"
    "We have the opportunity to refine the existing answer (only if needed) with some more context "
    "below.\n------------\n"
    "{passages}\n------------\nGiven the new context, refine the original answer to better answer the query. "
    "If the context isn't useful, return the original answer.\nRefined Answer: ",
    "langchain": "Use the following pieces of context to answer the question at the end. If you don't know the answer, "
    "just say that you don't know, don't try to make up an answer.\n\n{passages}\n\nQuestion: {question}\nHelpful "
    "Answer:",
    "langchain hub": "You are an assistant for question-answering tasks. Use the following pieces of retrieved context "
    "to answer the question. If you don't know the answer, just say that you don't know.\nQuestion: {question} \n"
    "Context: {passages} \nAnswer:",
    "langchain docs": "Answer the question based only on the following context:\n{passages}\n\nQuestion: {question}\n",
    "haystack": "Given the following information, answer the question.\n\nContext:\n{passages}\n\nQuestion: "
    "{question}\n"
    "Answer:",
    "haystack documents": "Given these documents, answer the question.\nDocuments:\n{passages}\nQuestion: "
    "{question}\nAnswer:",
    "triple quotes": "Use the below articles on lighthouses to answer the subsequent question.\n\nArticle "
    'section:\n"""\n'
    '{passages}\n"""\n\nQuestion: {question}',
    "squad": "Passage: {passages}\nQuestion: {question}\nAnswer:",
    "short labels": "Text: {passages}\nQ: {question}\nA:",
    "markdown": "## Context\n{passages}\n\n## Question\n{question}",
    "bold": "**Context:**\n{passages}\n\n**Question:** {question}",
    "capitals": "CONTEXT:\n{passages}\n\nQUESTION:\n{question}\n\nINSTRUCTIONS:\nAnswer from the CONTEXT above.",
    "percent": "Answer the question by using a given context.\n\n%CONTEXT%\nContext: "
    "{passages}\n\n%Question%\n{question}",
    "question first": "{question}\n\nContext:\n{passages}",
    "tags": "<context>\n{passages}\n</context>\n\n{question}",
    "tags with question": "Question: {question}\n\n<CONTEXT>\n{passages}\n</CONTEXT>\n\nUse only the information "
    "within the "
    "<CONTEXT> block to answer the question.\nAnswer:",
    "nested tags": "<documents>\n<document>\n<source>tower.md</source>\n<document_contents>\n{passages}\n"
    "</document_contents>\n</document>\n</documents>\n\n{question}",
    "sources heading": "Retrieved documents:\n{passages}\n\nUser question: {question}",
    "ragtruth": "Briefly answer the following question:\n{question}\nBear in mind that your response should be "
    "strictly based "
    "on the following three passages:\npassage 1:{passages}\nIn case the passages do not contain the necessary "
    "information "
    'to answer the question, please reply with: "Unable to answer based on given passages."\noutput:',
    "ragtruth content": "Briefly answer the following question:\n{question}\nBear in mind that your response should be "
    "strictly based on the following content:{passages}\noutput:",
    "brackets": "[CONTEXT]\n{passages}\n[/CONTEXT]\n\n{question}",
    "equals signs": "=== CONTEXT ===\n{passages}\n=== END OF CONTEXT ===\n\n{question}",
    "hashes": "### Context ###\n{passages}\n### End ###\n{question}",
    "question last": "Here is an article:\n{passages}\n\n{question}",
    "question on the same line": "Text: {passages} {question}",
    "reading": "Read the passage and answer the question.\n\n{passages}\n\n{question}",
    "fence": "```\n{passages}\n```\n{question}",
    "backwards": "{passages}\n\nBased on the text above, who built the lighthouse?\nContext: see above, {passages}",
}


def texts(passages: tuple[Passage, ...]) -> list[str]:
    return [passage.text for passage in passages]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_public_prompt_has_its_passages_found(name: str) -> None:
    body = f"{LIGHTHOUSE} {KEEPER}"
    text = TEMPLATES[name].format(passages=body, question=QUESTION)
    found = pasted(text)
    assert any(body in passage.text for passage in found)
    assert all(passage.text in text for passage in found)


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "backwards"])
def test_the_same_prompt_with_nothing_retrieved_has_none(name: str) -> None:
    assert pasted(TEMPLATES[name].format(passages="", question=QUESTION)) == ()


@pytest.mark.parametrize("name", ["llamaindex", "langchain", "langchain hub", "haystack", "squad", "markdown", "tags"])
def test_the_passage_is_the_material_alone(name: str) -> None:
    assert texts(pasted(TEMPLATES[name].format(passages=LIGHTHOUSE, question=QUESTION))) == [LIGHTHOUSE]


def test_our_own_wording_gives_its_passages_back() -> None:
    given = [Passage(LIGHTHOUSE), Passage(KEEPER)]
    text = grounded_messages(QUESTION, given)[0]["content"]
    assert pasted(text) == (Passage(LIGHTHOUSE, "1"), Passage(KEEPER, "2"))


@pytest.mark.parametrize(
    "text",
    [
        "<documents><document index='1'>{0}</document><document index='2'>{1}</document></documents>\n{2}",
        '<passage id="1">\n{0}\n</passage>\n<passage id="2">\n{1}\n</passage>\n{2}',
        "passage 1:{0}\n\npassage 2:{1}\n\nQuestion: {2}",
        "Document [1](Title: Lights) {0}\nDocument [2](Title: Heights) {1}\n\nQuestion: {2}".replace(") ", "): "),
        "Context documents:\n\n[Doc 1]: {0}\n\n[Doc 2]: {1}\n\nQuestion: {2}",
        "### Source 1\n{0}\n### Source 2\n{1}\n\nQuestion: {2}",
        "Search results:\n[1] {0}\n[2] {1}\n\nQuestion: {2}",
        "Answer using only the sources below.\n\n[1] {0}\n[2] {1}\n\n{2}\nQuestion: {2}",
    ],
)
def test_numbers_and_ids_are_the_passages_own(text: str) -> None:
    found = pasted(text.format(LIGHTHOUSE, KEEPER, QUESTION))
    assert [passage.id for passage in found] == ["1", "2"]
    assert LIGHTHOUSE in found[0].text
    assert KEEPER in found[1].text


def test_passages_between_rules_are_one_each() -> None:
    text = f"Context:\n---\n{LIGHTHOUSE}\n---\n{KEEPER}\n---\nUsing the context above: {QUESTION}"
    assert texts(pasted(text)) == [LIGHTHOUSE, KEEPER]


def test_a_list_of_questions_and_answers_is_material_up_to_the_last_question() -> None:
    faq = "Q: How long is delivery?\nA: Three days.\nQ: Can I send it back?\nA: Within a month."
    assert texts(pasted(f"Context:\n{faq}\nQuestion: How long is delivery?\nAnswer:")) == [faq]


@pytest.mark.parametrize(
    "text",
    [
        "Summarize the following document.\n\n{}\n\n\nSummary:",
        "Summarize the following news within 135 words:\n{}\noutput:",
        "Please summarise this text:\n{}",
        "Write a summary of the following. Try to use only the information provided.\n\n\n{}\n\n\nSUMMARY:",
        "{}\n\nTL;DR",
        "{}\nCan you summarize the above in two sentences?",
        "Give me the key points of this.\n\n{}",
        "{}\n\nWhat happened to the wooden tower?",
        "What happened to the wooden tower?\n\n{}",
        'What does this say about the reef?\n"""{}"""',
        "What is the main argument here? Explain.\n\n```text\n{}\n```",
        "{}\n\nWrite a short summary for a blog.",
    ],
)
def test_a_long_text_with_a_request_about_it_is_found(text: str) -> None:
    found = pasted(text.format(ARTICLE))
    assert len(found) == 1
    assert ARTICLE in found[0].text


@pytest.mark.parametrize(
    "text",
    [
        # small talk and plain questions
        "",
        "   \n ",
        "Hi!",
        "Thanks, that was very helpful.",
        "What is the capital of France?",
        "Who wrote the Iliad, and in which century? Please answer in one sentence.",
        "What does the word context mean in the context of machine learning?",
        "Where can I find documents about the French revolution?",
        "Explain the difference between a passage and a paragraph.",
        "Given the rise of streaming, how do musicians earn money?",
        "Summarize the plot of Hamlet in 200 words.",
        "Summarize the history of Rome.",
        "Based on the following, who is right?",
        "Context: none\nQuestion: who?",
        "Context:\n\nQuestion: Who built it?",
        "Answer using the context below.\n\nWho built the lighthouse?",
        # the user's own story, and wishes
        "Context: I'm planning a trip with my family and I have two weeks.\nQuestion: Where should we go?",
        "I have worked at the same place for eleven years and my manager told me last week that I will not be promoted."
        " I talked to my partner about it. I feel that my work is not seen, and I don't know whom I could ask for help."
        " My friends say I should leave, but I like my colleagues a lot.\n\nShould I leave?",
        "Which laptop should I buy?\n\n"
        + "\n".join(f"- requirement number {i}: lots of memory, please" for i in range(9)),
        "Shopping notes:\nmilk, eggs, flour and a little bit of butter\n\nWhat can I cook?",
        "Context: You are a wizard in a dark tower.\nQuestion: What do you see?",
        "Context: my wife and I are going to Italy in May.\nQuestion: What should we take with us?",
        f"{ARTICLE}\n\nWhat do you think about this?",
        f"How should I respond to this?\n\n{ARTICLE}",
        "Here is my resume text:\nThree years as a keeper of lighthouses.\n\nHow can I improve it?",
        # code
        f"```python\n{CODE}\n```\nWhat does this print?",
        f"```\n{CODE}\n```\nWhat does this print?",
        f"What does this print?\n\n{CODE}\n{CODE}\n{CODE}",
        "Why is my function slow?\n\nContext:\nIt reads a file line by line and sorts the lines.",
        "Context: We have a Postgres database with three tables, users, orders and items.\nTask: Write a SQL query.",
        "Parse this with Python: <documents><document id='1'>Hello there, world</document></documents>",
        "Why does <article><h1>Title</h1><p>Some words here</p></article> not render in HTML?",
        "How do I use the document object in javascript?",
        'Traceback (most recent call last):\n  File "a.py", line 3, in f\nValueError: bad value\n\nWhat is wrong?',
        # transformations and texts of one's own: an answer claims nothing about the text
        f"Translate the sentence to German.\n\n{ARTICLE}",
        f"Fix the grammar:\n\n{ARTICLE}",
        f"{ARTICLE}\n\nWrite a poem about this.",
        f"Rewrite this:\n\n{ARTICLE}",
        f'Please translate:\n"""{ARTICLE}"""\nWhat is it in French?',
        # too short to be a paste where nothing sets it off
        f"{LIGHTHOUSE} {KEEPER}\n\nHow high is it?",
        # long texts with a question about something else, or none
        f"{ARTICLE}\n\nWhich football club won yesterday?",
        ARTICLE,
        # unclosed or empty marks
        f"<context>{LIGHTHOUSE}\n\nWho?",
        f"</context>{LIGHTHOUSE}<context> Who?",
        "<context></context> Who built it?",
        '"""short""" what is this?',
        "-----\n\n-----\nWhat is this?",
        "[1] https://example.org [2] https://example.com are good links, right?",
    ],
)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    assert pasted(text) == ()


def test_material_that_says_to_be_kept_to_counts_whatever_it_is() -> None:
    text = f"Answer using only the context below.\n\nContext:\n{CODE}\n\nQuestion: What does the function area return?"
    assert "def area" in pasted(text)[0].text


SYSTEMS = {
    "create_retrieval_chain": "You are an assistant for question-answering tasks. Use the following pieces of "
    "retrieved context "
    "to answer the question. If you don't know the answer, say that you don't know. Use three sentences maximum and "
    "keep "
    "the answer concise.\n\n{}",
    "stuff, chat": "Use the following pieces of context to answer the user's question. \nIf you don't know the "
    "answer, just say "
    "that you don't know, don't try to make up an answer.\n----------------\n{}",
    "agent middleware": "You are a helpful assistant. Use the following context in your response:\n\n{}",
    "context chat engine": "Here are the relevant documents for the context:\n\n{}\n\nInstruction: Based on the "
    "above documents, "
    "provide a detailed answer for the user question below.",
    "tags": "You answer customers.\n<context>\n{}\n</context>",
    "heading": "You answer customers from the context.\n\nContext:\n{}",
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_message_that_announces_passages(name: str) -> None:
    found = announced(SYSTEMS[name].format(f"{LIGHTHOUSE}\n\n{KEEPER}"), QUESTION)
    assert any(LIGHTHOUSE in passage.text and KEEPER in passage.text for passage in found)
    assert announced(SYSTEMS[name].format(""), QUESTION) == ()


@pytest.mark.parametrize(
    "text",
    [
        "You are a helpful assistant.",
        "You are a pirate. Always answer in rhymes, and never say that you are a model.",
        "Always answer the query using the provided context information, and not prior knowledge.\nSome rules to "
        "follow:\n"
        "1. Never directly reference the given context in your answer.\n2. Avoid statements like 'Based on the "
        "context'.",
        f'Be kind. Do not say things like """{ARTICLE}""" to anyone.',
        f"{ARTICLE}\n\nNow, who are you?",
        "Context: You are in a tavern in the mountains, in winter. A bard sings.",
        "# Role\nYou support customers of a shipyard.\n\n# Context\nThe shipyard builds ferries. They write at night.",
    ],
)
def test_other_system_messages_hold_none(text: str) -> None:
    assert announced(text, QUESTION) == ()


def test_of_an_enormous_text_the_beginning_is_looked_at() -> None:
    text = f"Question: {QUESTION}\nContext:\n{LIGHTHOUSE} " + "more " * LIMIT
    [passage] = pasted(text)
    assert passage.text.startswith(LIGHTHOUSE)
    assert LIMIT - 100 < len(passage.text) < LIMIT
    assert announced(" " * LIMIT + text, QUESTION) == ()


@pytest.mark.parametrize(
    "unit",
    [
        "<context>",
        "<",
        "\n",
        " ",
        "-----\n",
        "```\n",
        '"""',
        "[1] ",
        "passage 1:",
        "Context:\n",
        "Question:\n",
        "a-",
        "I ",
        ";",
    ],
)
@pytest.mark.parametrize("end", ["", "the following context "])
def test_time_grows_with_the_text_and_no_faster(unit: str, end: str) -> None:
    text = (unit + end) * (400_000 // len(unit + end))
    began = time.perf_counter()
    pasted(text)
    announced(text, text)
    assert time.perf_counter() - began < 10  # a quadratic pattern takes minutes
