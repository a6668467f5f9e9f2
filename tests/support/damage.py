"""Bytes from outside as they should not be: valid files, damaged at random or given other values (hypothesis)."""

import json

from hypothesis import strategies as st


@st.composite
def damaged(draw, originals):
    """One of the originals, with some of its bytes changed, cut out, repeated or put in."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 16))
        inserted = draw(st.binary(max_size=8) | st.just(bytes(data[at : at + length])))
        data[at : at + draw(st.integers(0, length))] = inserted
    if draw(st.booleans()):
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("../../outside"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value, place=()):
    """Where in a JSON value something could be replaced."""
    yield place
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*place, key))


@st.composite
def changed(draw, original):
    """The JSON value with another value somewhere, or without one."""
    value = json.loads(json.dumps(original))
    place = draw(st.sampled_from(list(places(value))))
    if not place:
        return draw(values)
    target = value
    for key in place[:-1]:
        target = target[key]
    if draw(st.booleans()):
        target[place[-1]] = draw(values)
    else:
        del target[place[-1]]
    return value


def as_file(original):
    """Bytes of a JSON file that is, or was, this value."""
    text = json.dumps(original).encode()
    return changed(original).map(lambda value: json.dumps(value).encode()) | damaged([text])
