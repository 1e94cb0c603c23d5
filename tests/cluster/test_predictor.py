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
    "__call__",
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


def test_a_source_has_its_own_thresholds_and_classes(predictor: Predictor):
    # the score of a level is level / 510 + 0.5, its class the last digit
    everything = encode_jsonl(list(predictor.predict(Grays(70))))
    for option, expected in [
        ({"conf": 0.6}, [level for level in range(70) if level > 51]),
        ({"classes": ["level3", 5]}, [level for level in range(70) if level % 10 in (3, 5)]),
        ({"classes": "level3", "conf": 0.6, "max_det": 1, "iou": 0.5}, [53, 63]),
    ]:
        for call in (predictor, predictor.predict):
            found = [level_of(row) for row in call(Grays(70), **option) if len(row)]
            assert found == expected
        pieces = predictor.stream_encoded(Grays(70), **option)
        assert sum(piece.found for piece in pieces) == len(expected)
        assert encode_jsonl(list(predictor.predict(Grays(70)))) == everything
    for option, message in [
        ({"classes": ["level33"]}, "close are level3"),
        ({"conf": 2}, "conf is 2"),
        ({"imgsz": 96}, "load another one"),
    ]:
        with pytest.raises(UsageError, match=message):
            predictor.predict(Grays(1), **option)
    assert predictor.names[3] == "level3" and len(predictor.names) == 10
    assert level_of(predictor.submit(gray(7), classes="level7").result(PATIENCE_S)) == 7


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
