"""/v1/models: one model, by the name it is served under, as the official client reads it."""

from __future__ import annotations

import time

import openai
import pytest

from groundwire.server.errors import ApiError
from groundwire.server.models import check_model
from groundwire.server.settings import Settings


@pytest.fixture
def client(served):
    with openai.OpenAI(
        base_url=served(settings=Settings(served_model_name="org/mine")).base_url + "/v1", api_key="x"
    ) as c:
        yield c


def test_the_list_holds_the_served_model(client):
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("org/mine", "model", "groundwire")
    assert abs(time.time() - model.created) < 600


def test_one_model_by_name_slash_and_all(client):
    assert client.models.retrieve("org/mine").id == "org/mine"


def test_another_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match=r"'org/other' does not exist here\. This server has 'org/mine'"):
        client.models.retrieve("org/other")


def test_without_a_name_it_is_the_model_s_id(served):
    assert served().client.get("/v1/models").json()["data"][0]["id"] == "fake"


def test_a_request_for_another_model_is_refused():
    check_model("a", "a")
    with pytest.raises(ApiError) as raised:
        check_model("b" * 1000, "a")
    assert (raised.value.status_code, raised.value.param, raised.value.code) == (404, "model", "model_not_found")
    assert len(raised.value.message) < 300
