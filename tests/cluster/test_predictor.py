"""One face: whoever has a Predictor need not know whether it is an engine or a pool."""

from __future__ import annotations

import inspect

import pytest
from cluster_kit import PATIENCE_S, Grays, check, gray, level_of, pool_of, start_marked

from brimful.cluster.pool import EnginePool
from brimful.engine.engine import Engine
from brimful.engine.predictor import Predictor
from brimful.errors import EngineStoppedError, ImageError, UsageError
from brimful.formats.json_record import encode_jsonl

FACE = [
    *(name for name in vars(Predictor) if not name.startswith("_") and name != "spec"),
    "__enter__",
    "__exit__",
]


def parameters(function):
    found = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, p.default) for p in found]


@pytest.fixture(params=["engine", "pool"])
def predictor(request, tmp_path):
    if request.param == "engine":
        with start_marked(tmp_path, device="steady") as engine:
            yield engine
    else:
        with pool_of(tmp_path, "steady-a", "steady-b") as pool:
            yield pool


@pytest.mark.parametrize("kind", [Engine, EnginePool])
@pytest.mark.parametrize("name", FACE)
def test_both_have_the_parameters_of_the_protocol(kind, name):
    """What mypy checks of types, for names and defaults too."""
    promised, found = (inspect.getattr_static(each, name) for each in (Predictor, kind))
    assert type(found) is type(promised)
    if inspect.isfunction(found):
        assert parameters(found) == parameters(promised)


def test_all_of_it_does_the_same(predictor: Predictor):
    assert predictor.health == "ok" and predictor.spec.task == "detect"
    assert predictor.warm_up() == [(64, 64)]
    predictor.reset_stats()
    torn = {1: ImageError("it is torn")}
    rows = list(predictor.predict(Grays(100, torn)))
    check(rows, 100, but={1})
    assert [row for rows in predictor.stream(Grays(100, torn)) for row in rows] == rows
    pieces = list(predictor.stream_encoded(Grays(100, torn)))
    assert b"".join(piece.lines for piece in pieces) == encode_jsonl(rows)
    assert sum(piece.count for piece in pieces) == 100
    assert sum(piece.failures for piece in pieces) == 1
    assert sum(piece.found for piece in pieces) == 99
    assert level_of(predictor.submit(gray(7)).result(PATIENCE_S)) == 7
    ran = predictor.report().batches
    assert sum(size * count for size, count in ran.items()) == 3 * 99 + 1
    assert predictor.describe()["runtime"] == "debug"
    assert predictor.drain(PATIENCE_S)
    predictor.close()
    for call in (predictor.predict, predictor.stream, predictor.stream_encoded):
        with pytest.raises(EngineStoppedError):
            call(Grays(1))


def test_errors_come_with_the_call_and_not_with_the_first_result(predictor: Predictor):
    for call in (predictor.predict, predictor.stream, predictor.stream_encoded):
        with pytest.raises(UsageError, match="no source"):
            call("/nowhere/at/all")


def test_what_is_left_early_closes_its_source(predictor: Predictor):
    for call in (predictor.predict, predictor.stream, predictor.stream_encoded):
        source = Grays(None)
        results = call(source)
        next(results)
        results.close()
        assert source.closed
    check(list(predictor.predict(Grays(20))), 20)
