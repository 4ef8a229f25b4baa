"""Knowing the routes: newest wins, saved gives way, the file survives."""

from hypothesis import given
from hypothesis import strategies as st

from contracts.routes import Route
from services.gateway.adapters.files import RecordFile
from services.gateway.routing.tables import RouteTable
from testbed.factories import MODEL, route


@given(st.lists(st.integers(min_value=1, max_value=9), min_size=1, max_size=12))
async def test_whatever_the_order_and_the_revision_the_highest_epoch_stays(epochs):
    table = RouteTable({}, lambda _: None)
    for revision, epoch in enumerate(epochs, start=1):
        await table.apply(MODEL, route(epoch=epoch), revision)
    assert table.get(MODEL).epoch == max(epochs)


async def test_a_saved_route_gives_way_to_a_live_one_of_a_higher_epoch():
    table = RouteTable({MODEL: route(epoch=50)}, lambda _: None)
    assert (table.get(MODEL).epoch, table.live) == (50, False)
    await table.apply(MODEL, route(epoch=51), 1)
    assert (table.get(MODEL).epoch, table.live) == (51, True)


async def test_a_route_under_another_models_key_is_ignored():
    table = RouteTable({}, lambda _: None)
    await table.apply("other", route(), 1)
    assert table.all() == []


async def test_a_disk_that_is_full_does_not_stop_the_switch():
    def fail(_routes):
        raise OSError(28, "No space left on device")

    table = RouteTable({}, fail)
    await table.apply(MODEL, route(epoch=3), 1)
    assert table.get(MODEL).epoch == 3


async def test_what_was_saved_is_loaded_again(tmp_path):
    file = RecordFile(tmp_path / "routes.json", Route)
    assert file.load() == {}
    await RouteTable({}, file.save).apply(MODEL, route(), 1)
    assert file.load() == {MODEL: route()}
    assert [path.name for path in tmp_path.iterdir()] == ["routes.json"]


def test_a_damaged_file_is_no_reason_not_to_start(tmp_path):
    path = tmp_path / "routes.json"
    path.write_text('{"support-bot": {"epoch"')
    assert RecordFile(path, Route).load() == {}
