"""Where tasks are placed, without a cluster."""

from pipelines.regulation.tasks import HEAD_RESOURCE, away_from_head

IDS = ["a1" * 28, "b2" * 28]
HEAD = {"NodeID": "head", "Alive": True, "Resources": {HEAD_RESOURCE: 1.0, "memory": 8e9}}
WORKERS = [{"NodeID": name, "Alive": True, "Resources": {"CPU": 8.0}} for name in IDS]
DEAD = {"NodeID": "dead", "Alive": False, "Resources": {}}


def test_an_average_is_placed_on_a_living_worker_node_and_elsewhere_if_that_is_lost():
    places = [away_from_head([HEAD, DEAD, *WORKERS]) for _ in range(100)]
    assert {place.node_id for place in places} == set(IDS) and all(place.soft for place in places)


def test_a_head_alone_makes_its_averages_itself():
    assert away_from_head([HEAD, DEAD]) == away_from_head([]) == "DEFAULT"
