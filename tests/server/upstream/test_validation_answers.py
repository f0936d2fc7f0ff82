"""FastAPI repeats what it does not accept, and fails when JSON has no word for it."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from monailabel.endpoints import train

from server.upstream import validation_answers
from upstream_parts import ask, web


def post(app: FastAPI, body: str) -> tuple[int, object]:
    reply = ask(app, "POST", "/train/semisam", content=body, headers={"Content-Type": "application/json"})
    return reply.status_code, reply.json()["detail"] if reply.status_code < 500 else None


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("[NaN]", validation_answers.FORM),
        ("Infinity", validation_answers.FORM),
        ('["\\ud800"]', validation_answers.UNICODE),
    ],
)
def test_what_json_has_no_word_for(body: str, text: str) -> None:
    assert post(web(train.router), body) == (500, None)
    app = web(train.router)
    validation_answers.install(app)
    assert post(app, body) == (400, text)


def test_fastapis_own_answer_stays() -> None:
    app = web(train.router)
    before = post(app, "[1, 2]")
    validation_answers.install(app)
    assert post(app, "[1, 2]") == before
    assert before[0] == 422
