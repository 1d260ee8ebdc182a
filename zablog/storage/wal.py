"""The write-ahead log on disk: recovery, appending batches, cutting, trimming. How it is read: `storage/reading.py`.

A file is as long as it will be ahead of use (`storage/spare.py`). It is put to use by one atomic step: its header names the place where
it takes over, is synced under a temporary name, and the file is renamed. What older files hold above that place is void. So going on in a
new file, truncating, and leaving a damaged tail behind are the same step, and a crash leaves the log either before or after it.

Behind the last batch of a new file are zeros. In a reused one a mark stands there, which the next batch covers once the mark behind that
one is written; else there is what an earlier use has left, never taken for ours, since its checksums begin with those of another header.

The file is long because what recovery reads and what appending writes are two views of the same bytes, best checked side by side.
"""

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Final, NamedTuple

from zablog.core.trail import Entries, Mark, Payload, Trail
from zablog.core.zxid import BEYOND, ZERO, Zxid
from zablog.storage.batch import (
    BATCH_BYTES,
    BATCH_MAGIC,
    END_BYTES,
    FILE_BYTES,
    FILLED,
    NOTHING,
    REUSED,
    BatchHeader,
    EndMark,
    FileHeader,
    NotAHeader,
    batch_headers,
    decode_batch_header,
    decode_body,
    decode_file_header,
    encode_body,
    end_marks,
    identifier_at,
)
from zablog.storage.disk import Disk
from zablog.storage.errors import Corrupt, Faulty, NewerFormat
from zablog.storage.manifest import Contents
from zablog.storage.reading import HELP, File, LogReader, file_name
from zablog.storage.repair import Fault
from zablog.storage.runs import part
from zablog.storage.spare import PREPARED, Spare

WIDE_BYTES: Final = 128 << 10
"""Batches of so many bytes, in the mean of a file, are large ones."""
INDEX_BYTES: Final = 1 << 20
"""One row of the index each so many bytes of log."""
FIRST_FILE_BYTES: Final = 1 << 20
"""The first file is small, so that a new-born node starts at once."""


class Place(NamedTuple):
    """Between two batches: what the next one has to go on from."""

    mark: Mark
    sequence: int
    """The number of the next batch."""
    previous: int
    """The identifier of the last one."""


class Behind(NamedTuple):
    """The first thing behind a damaged batch that is whole."""

    offset: int | None
    """None: it is the following file."""
    place: Place
    """Between what is damaged and it."""


def at_file(file: File) -> Behind:
    """What is damaged ends where this file begins."""
    return Behind(None, Place(file.header.start, file.header.sequence, file.header.previous))


class Wal(LogReader):
    """One node's log. `append`, `cut` and `seal` are for one thread; `read` and `spare.prepare` may run beside them in others."""

    def __init__(
        self,
        disk: Disk,
        owner: bytes,
        file_bytes: int = 16 << 20,
        contents: Contents | None = None,
        rolled: Callable[[int], None] = lambda generation: None,
    ) -> None:
        self.contents = contents or Contents()
        """What the manifest said at the start."""
        super().__init__(disk, Trail(self.contents.base))
        self.owner = owner
        self.file_bytes = file_bytes
        self.rolled = rolled
        """Called with the generation of each file once it has been put to use, before anything is written to it."""
        self.hint = ZERO
        """The highest commit hint found."""
        self.suspect: Zxid | None = None
        """Set by recovery: the last batch is damaged and was perhaps acknowledged; its range ends here."""
        self.sequence = 1
        self.previous = NOTHING
        self.sealed = True
        """Is the last batch named by something behind it?"""
        self.generation = 0
        self.last_offset = FILE_BYTES
        """Where the last batch stands in the last file; the end of its header if there is none."""
        self.spare = Spare(disk, file_bytes)
        self.begins = 0
        """The generation of the first file that is read, where recovery went beyond damage."""

    # -- recovery -----------------------------------------------------------------------------------------------------------

    def recover(self, beyond: bool = False) -> None:
        """Read everything, verify everything. Raises Corrupt where what may have been acknowledged is damaged.

        `beyond`: instead of raising Faulty let the trail begin behind the last damage that has something whole behind it. Such a log
        is there to be read, and to be carried into another file.
        """
        self.spare.adopt()
        files, void = self.chain()
        mark = files[0].header.start if files else self.contents.base
        if mark != self.contents.base:
            raise Corrupt(
                f"the log begins at {mark.zxid} in {files[0].name}, and should begin at {self.contents.base.zxid}: "
                f"what came between is missing. {HELP}"
            )
        for file, following in zip_longest(files, files[1:]):
            mark = self.recover_file(file, mark, following, beyond)
        self.files = [file for file in files if file.header.generation >= self.begins]
        if not beyond:
            self.hint = self.trail.floor(self.hint)
        self.disk.sync_names()
        for name in void:  # superseded by a truncation, which is durable from here on; before that, these were the log
            self.disk.unlink(name)

    def chain(self) -> tuple[list[File], list[str]]:
        """The files that make the log, in order, and those that are void."""
        headers = []
        for name in self.disk.names():
            if name.startswith("wal-"):
                headers.append(File(name, self.file_header(name)))
        headers.sort(key=lambda file: file.header.generation)
        first, newest = self.contents.first, self.contents.newest
        found = headers[-1].header.generation if headers else 0
        if headers and found < newest and newest >= first:
            raise Corrupt(f"{file_name(newest)} was put to use and is missing: the log would end too early without it. {HELP}")
        self.generation = max(found, newest, first - 1)
        files: list[File] = []
        void = [file.name for file in headers if file.header.generation < first]
        for file in reversed(headers[len(void) :]):
            if files and file.header.start.zxid >= files[0].header.start.zxid:
                void.append(file.name)
            else:
                files.insert(0, file)
        return files, void

    def file_header(self, name: str) -> FileHeader:
        try:
            header = decode_file_header(self.disk.read(name, 0, FILE_BYTES))
        except NotAHeader as error:
            if error.format is not None:
                raise NewerFormat(f"{name}: {error}; this version cannot read it. Use the version that wrote it.") from error
            raise Corrupt(f"{name}, offset 0: {error}. {HELP}") from error
        if header.owner != self.owner:
            raise Corrupt(f"{name} was written by incarnation {header.owner.hex()}, this node's is {self.owner.hex()}. {HELP}")
        if name != file_name(header.generation) or self.disk.size(name) != header.capacity:
            raise Corrupt(
                f"{name} has {self.disk.size(name)} bytes and says of itself that it is {file_name(header.generation)} with "
                f"{header.capacity}. {HELP}"
            )
        return header

    def recover_file(self, file: File, mark: Mark, following: File | None, beyond: bool) -> Mark:
        """Take the entries of `file` up to where the following one takes over, or to the end. Returns the last place."""
        raw = self.disk.read(file.name, 0, file.header.capacity)
        limit = following.header.start if following else None
        if file.header.start != mark:
            raise Corrupt(f"{file.name} takes over at {file.header.start.zxid} with another digest than the log has there. {HELP}")
        sequence, previous, offset = file.header.sequence, file.header.previous, FILE_BYTES
        self.last_offset = offset
        while limit is None or mark.zxid < limit.zxid:
            if self.ends(file, raw, offset, EndMark(sequence, previous, mark.zxid)):
                if following is None:
                    break
                if not beyond:
                    words = f"the log ends here, but goes on at {following.header.start.zxid}"
                    raise self.faulty(file, offset, Place(mark, sequence, previous), words, at_file(following))
                offset, (mark, sequence, previous) = self.go_on(file, following, at_file(following))
                continue
            header: BatchHeader | None = None
            try:
                header = decode_batch_header(raw, file.salt, offset)
                entries = self.verify(header, raw, offset, file, mark, sequence, previous)
            except NotAHeader as error:
                behind = self.damaged(file, raw, offset, sequence, header, following)
                if behind is None:
                    break
                if not beyond:
                    raise self.faulty(file, offset, Place(mark, sequence, previous), str(error), behind) from error
                offset, (mark, sequence, previous) = self.go_on(file, following, behind)
                continue
            if entries is not None:
                if limit is not None and entries.last > limit.zxid:
                    entries = part(entries, mark, limit.zxid)
                self.index(file, offset, mark.zxid)
                self.trail.append(entries)
                mark = self.trail.end
            self.hint, self.last_offset = max(self.hint, header.hint), offset
            sequence, previous, offset = sequence + 1, identifier_at(raw, offset), offset + BATCH_BYTES + header.body_bytes
        if limit is not None and mark != limit:
            raise Corrupt(f"{file.name}: the digest at {mark.zxid} is not the one the log goes on from. {HELP}")
        file.end = offset
        if following is None:
            self.sequence, self.previous, self.sealed = sequence, previous, sequence == file.header.sequence
            self.make_durable(file, raw, self.last_offset, file.written if self.suspect is None else file.end)
        return mark

    def make_durable(self, file: File, raw: bytes, begin: int, end: int) -> None:
        """Readable is not durable, and from here on it is advertised (W3).

        Of all batches only the last may not have been synced. If a sync of it failed in an earlier process, its pages are clean now and a
        sync alone would write nothing; writing the same bytes again makes them dirty, and harms nothing wherever it is torn.
        """
        if begin < end:
            self.disk.write(file.name, begin, [raw[begin:end]])
        self.disk.sync(file.name)

    def verify(self, header: BatchHeader, raw: bytes, offset: int, file: File, mark: Mark, sequence: int, previous: int) -> Entries | None:
        """The entries of a batch that is whole and in its place. NotAHeader if it is damaged, Corrupt if it is whole but out of place."""
        body = raw[offset + BATCH_BYTES : offset + BATCH_BYTES + header.body_bytes]
        in_place = (header.sequence, header.generation, header.prev, header.previous) == (
            sequence,
            file.header.generation,
            mark,
            previous,
        )
        if not in_place:
            raise Corrupt(f"{file.name}, offset {offset}: a whole batch that does not belong here, after {mark.zxid}. {HELP}")
        payloads = decode_body(header, body, file.header.format)
        if not payloads:
            return None
        entries = Entries(header.first, mark.zxid, payloads, header.digest)
        if not self.trail.follows(entries):
            raise Corrupt(f"{file.name}, offset {offset}: a whole batch {header.first} whose digest does not continue the log. {HELP}")
        return entries

    def damaged(
        self, file: File, raw: bytes, offset: int, sequence: int, header: BatchHeader | None, following: File | None
    ) -> Behind | None:
        """A batch is damaged. If anything valid stands behind it, it was synced; if not, nobody can tell, and its range is suspect."""
        behind = self.later(file, raw, offset, sequence)
        if behind is None and following is not None:
            behind = at_file(following)
        if behind is None:
            self.suspect = self.reach(file, raw, offset, sequence, header)
        return behind

    def ends(self, file: File, raw: bytes, offset: int, mark: EndMark) -> bool:
        """Does the file say that nothing was written from `offset` on, behind what `mark` says of the batch before?"""
        if file.header.format != REUSED:
            return not raw.startswith(BATCH_MAGIC, offset) and not raw[offset:].strip(b"\0")
        if not raw.startswith(mark.encode(file.salt), offset) or self.later(file, raw, offset, mark.sequence) is not None:
            return False
        return all(each.sequence <= mark.sequence for each in end_marks(raw, file.salt, offset))  # else a write in this place was lost

    def reach(self, file: File, raw: bytes, offset: int, sequence: int, header: BatchHeader | None) -> Zxid:
        """Through where the damaged last batch may have held entries. What stands behind it may have been another one: BEYOND."""
        if file.header.format == REUSED:
            # A mark is on its way to the disk before its batch is. One that names a later batch says that this one was not the last.
            latest = max(end_marks(raw, file.salt, offset), key=lambda mark: (mark.sequence, mark.last), default=None)
            return latest.last if latest is not None and latest.sequence == sequence + 1 else BEYOND
        alone = header is not None and not raw[offset + BATCH_BYTES + header.body_bytes :].strip(b"\0")
        return header.last if header is not None and alone else BEYOND

    def later(self, file: File, raw: bytes, offset: int, sequence: int) -> Behind | None:
        """The first whole header of a batch of this file behind `offset`, where number `sequence` would stand."""
        for at, later in batch_headers(raw, file.salt, file.header.generation, offset):
            if later.sequence > sequence:
                return Behind(at, Place(later.prev, later.sequence, later.previous))
        return None

    def faulty(self, file: File, offset: int, place: Place, reason: str, behind: Behind) -> Faulty:
        """What stands at `place` is damaged, and was synced: the error that says where, and what its neighbours tell."""
        batches = behind.place.sequence - place.sequence
        text = f"{file.name}, offset {offset}, after zxid {place.mark.zxid}: {reason}, with valid data behind it"
        if batches != 1:
            text += ", and more than one batch between"
        fault = Fault(
            file.name,
            file.salt,
            file.header.generation,
            file.header.format,
            offset,
            place.sequence,
            place.mark,
            place.previous,
            self.hint,
            behind.place.mark,
            behind.place.previous,
            batches,
        )
        return Faulty(f"{text}. {HELP}", fault)

    def go_on(self, file: File, following: File | None, behind: Behind) -> tuple[int, Place]:
        """Forget what was read, and go on behind the damage: at which offset of this file, if it is in this one."""
        offset, place = behind
        if following is not None and (offset is None or place.mark.zxid >= following.header.start.zxid):
            place = place._replace(mark=following.header.start)
            self.trail, self.begins, offset = Trail(place.mark), following.header.generation, file.end
        else:
            assert offset is not None, "what stands behind the damage is in this file or in the next"
            self.trail, self.begins = Trail(place.mark), file.header.generation
            file.rows[:] = [(place.mark.zxid, offset)]
        return offset, place

    # -- writing ------------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make the log ready to be appended to: it has a file, of a format that we write, and no damaged tail."""
        if not self.files or self.suspect is not None or self.files[-1].header.format < FILLED:
            self.take_over(self.trail.end)

    def append(self, entries: Entries, hint: Zxid) -> None:
        """One batch: one write, and one before it for the mark in a reused file. The caller syncs."""
        assert entries.prev == self.trail.last, "the law that appended entries continue the log"
        self.write(entries.first, len(entries.payloads), entries.digest, hint, *encode_body(entries.payloads, entries.digest))
        self.trail.append(entries)
        self.sealed = False

    def seal(self, hint: Zxid) -> None:
        """An empty batch that names the one before it: damage there is corruption from now on, not a torn tail. The caller syncs."""
        self.write(self.trail.last, 0, self.trail.digest, hint, *encode_body([], self.trail.digest))
        self.sealed = True

    def write(self, first: Zxid, entries: int, digest: int, hint: Zxid, pieces: Sequence[Payload], body_bytes: int, check: int) -> None:
        mark = self.trail.end
        if BATCH_BYTES + body_bytes > self.room:
            self.take_over(mark, BATCH_BYTES + body_bytes)
        file = self.files[-1]
        header = BatchHeader(self.sequence, file.header.generation, first, entries, mark, digest, hint, self.previous, body_bytes, check)
        head = header.encode(file.salt)
        end = file.end + BATCH_BYTES + body_bytes
        self.sequence, self.previous = self.sequence + 1, identifier_at(head)
        if file.header.format == REUSED:  # first, so that a process that is killed in the middle of the batch leaves word of its end
            self.disk.write(file.name, end, [EndMark(self.sequence, self.previous, header.last).encode(file.salt)])
        self.disk.write(file.name, file.end, [head, *pieces])
        if entries:
            self.index(file, file.end, mark.zxid)
        self.last_offset, file.end = file.end, end

    def index(self, file: File, offset: int, before: Zxid) -> None:
        if not file.rows or offset - file.rows[-1][1] >= INDEX_BYTES:
            file.rows.append((before, offset))

    def sync(self) -> None:
        self.disk.sync(self.files[-1].name)

    @property
    def room(self) -> int:
        """Bytes that the file in use still takes."""
        return self.files[-1].header.capacity - self.files[-1].written

    def cut(self, mark: Mark) -> None:
        """Void everything above `mark`, whose digest has been verified. Durable when it returns."""
        self.trail.truncate(mark)
        self.take_over(mark)

    def take_over(self, start: Mark, bytes_min: int = 0) -> None:
        """Go on in a new file from `start`. One atomic step: the renaming of a file that is complete and synced."""
        if self.files:
            batches = self.sequence - self.files[-1].header.sequence
            self.spare.wide = 0 < batches * WIDE_BYTES <= self.files[-1].end
        usual = self.file_bytes if self.generation else min(self.file_bytes, FIRST_FILE_BYTES)
        capacity = max(usual, FILE_BYTES + bytes_min + END_BYTES)
        with self.spare.lock:
            if self.spare.bytes < capacity:
                self.spare.fill(capacity)
            new = self.headed(start)
            self.spare.put_to_use(new.name)
            self.rolled(self.generation)
        with self.lock:
            void = [file.name for file in self.files if file.header.start.zxid >= start.zxid]
            self.files = [*(file for file in self.files if file.header.start.zxid < start.zxid), new]
            self.cursors.clear()
        self.sealed, self.last_offset = True, FILE_BYTES  # the header of the new file names the last batch
        for old in reversed(void):
            self.disk.unlink(old)

    def headed(self, start: Mark) -> File:
        """The prepared file, with the header of the next generation: what it will be once it is renamed."""
        self.generation += 1
        header = FileHeader(self.generation, self.owner, self.spare.bytes, self.sequence, start, self.previous, self.spare.format)
        self.spare.bytes = 0
        new = File(file_name(self.generation), header)
        mark = EndMark(self.sequence, self.previous, start.zxid).encode(new.salt) if header.format == REUSED else b""
        self.disk.write(PREPARED, 0, [header.encode() + mark])
        return new

    def carry(self, start: Mark, runs: Sequence[Entries], hint: Callable[[Zxid], Zxid]) -> None:
        """Let the log go on from `start` in a new file, with `runs` and what we have above those. Durable when it returns.

        What older files hold above `start` is void then. `hint`: what a batch that ends there may say to be committed. Nothing is read
        or written here afterwards.
        """
        after = runs[-1].last if runs else start.zxid
        last = max(self.trail.last, after)
        sizes = [encode_body(run.payloads, run.digest)[1] for run in runs]
        sizes += [header.body_bytes for *_, header in self.batches(after)] if after < last else []
        capacity = max(self.file_bytes, FILE_BYTES + BATCH_BYTES + END_BYTES + sum(BATCH_BYTES + size for size in sizes))
        self.spare.fill(capacity)
        new = self.headed(start)
        copy = Wal(self.disk, self.owner, self.file_bytes)
        copy.files, copy.trail, copy.sequence, copy.previous = [File(PREPARED, new.header)], Trail(start), self.sequence, self.previous
        for run in runs:
            copy.append(run, hint(run.last))
        while copy.trail.last < last:
            entries = self.read(copy.trail.last, last, capacity)
            assert entries is not None and copy.trail.follows(entries), "the law that a log is read as it was recovered"
            copy.append(entries, hint(entries.last))
        if sizes:
            copy.seal(hint(last))
        self.spare.put_to_use(new.name)

    def trim(self, first: File) -> None:
        """Let the log begin with `first`. The manifest says so already; what is below it is void."""
        self.trail.rebase(first.header.start)  # first, so that no reader takes the gap for the end
        with self.lock:
            at = self.files.index(first)
            void, self.files = self.files[:at], self.files[at:]
            self.cursors.clear()
        for old in void:
            self.spare.keep(old)

    def restart(self, base: Mark, first: int) -> None:
        """Let an empty log begin at `base`, in files of the generation `first` and above. The manifest says so already."""
        with self.lock:
            void, self.files = self.files, []
            self.cursors.clear()
        self.trail = Trail(base)
        self.suspect = None
        self.generation = max(self.generation, first - 1)
        self.take_over(base)
        for old in void:
            self.disk.unlink(old.name)
