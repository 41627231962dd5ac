import threading

import pytest

from ctxcomp.progress import listen, tracked


def test_the_listener_hears_of_each_item_when_it_is_done():
    heard = []
    with listen(lambda done, total: heard.append((done, total))):
        for item in tracked("abc"):
            assert len(heard) == "abc".index(item)
    assert heard == [(1, 3), (2, 3), (3, 3)]


def test_without_a_listener_nothing_happens():
    assert list(tracked([1, 2])) == [1, 2]


def test_listening_ends_with_the_block_even_after_an_error():
    heard = []
    with pytest.raises(KeyError), listen(lambda *at: heard.append(at)):
        raise KeyError
    assert list(tracked([1])) == [1]
    assert heard == []


def test_inner_blocks_listen_alone_and_other_threads_do_not():
    outer, inner = [], []
    with listen(lambda *at: outer.append(at)):
        with listen(lambda *at: inner.append(at)):
            list(tracked([1]))
            thread = threading.Thread(target=lambda: list(tracked([1, 2])))
            thread.start()
            thread.join()
        list(tracked([1, 2]))
    assert (outer, inner) == ([(1, 2), (2, 2)], [(1, 1)])


def test_items_of_unknown_number_pass_through():
    heard = []
    with listen(lambda *at: heard.append(at)):
        assert list(tracked(i for i in range(3))) == [0, 1, 2]
    assert heard == []
