"""Hypothesis strategies for invalid input: valid files that are damaged at random or hold other values."""

import json

from hypothesis import strategies as st


@st.composite
def damaged(draw, originals):
    """One of the originals, with some of its bytes changed, removed, repeated or inserted."""
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


def paths(value, path=()):
    """Yields the paths, as tuples of keys, of all values inside a JSON value."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(inner, (*path, key))


@st.composite
def changed(draw, original):
    """The JSON value with one inner value replaced or removed."""
    value = json.loads(json.dumps(original))
    path = draw(st.sampled_from(list(paths(value))))
    if not path:
        return draw(values)
    target = value
    for key in path[:-1]:
        target = target[key]
    if draw(st.booleans()):
        target[path[-1]] = draw(values)
    else:
        del target[path[-1]]
    return value


def as_file(original):
    """The bytes of a JSON file whose value was changed or whose bytes were damaged."""
    text = json.dumps(original).encode()
    return changed(original).map(lambda value: json.dumps(value).encode()) | damaged([text])
