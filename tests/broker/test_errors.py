"""One table of errors: code, class, exit code, and what the caller can do."""

from broker.errors import Attempt, BrokerError, Code, ConnectionLost, Exit, InternalError, OffsetOutOfRange, TopicNotFound, error_of


def test_every_code_has_its_class():
    for code in Code:
        error = error_of(code, "words")
        assert error.code == code
        assert isinstance(error, BrokerError)
        assert type(error).code == code, f"{code} has no class of its own"


def test_code_of_a_later_build_is_kept():
    error = error_of("from_the_future", "words", hint="do this", maybe_written=True)

    assert type(error) is InternalError
    assert (error.code, error.message, error.hint, error.maybe_written) == ("from_the_future", "words", "do this", True)


def test_error_says_what_was_tried():
    error = TopicNotFound("topic a: there is none", attempts=[Attempt("h:1", "connection refused")])

    assert str(error) == "topic a: there is none; h:1: connection refused"
    assert error.exit_code is Exit.NOT_FOUND and not error.maybe_written and "topic create" in error.hint


def test_the_same_error_can_be_raised_again_as_a_fresh_one():
    for error in (OffsetOutOfRange("no", 3, 9), ConnectionLost("h:1", "reset"), TopicNotFound("t")):
        error.add_note("seen")
        twin = error.again()
        assert twin is not error and type(twin) is type(error) and str(twin) == str(error)
        assert not hasattr(twin, "__notes__")
        assert twin.exit_code == error.exit_code and twin.maybe_written == error.maybe_written
    assert twin.__traceback__ is None
