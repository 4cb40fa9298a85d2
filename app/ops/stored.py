"""What the artifact store holds by the database's word: every key that a row names, with its size and hash."""

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.models import CheckpointFile, Export, Extract, LabelCheck, Snapshot
from app.storage import StoredFile

BATCH = 500


def files(session: Session) -> Iterator[tuple[str, StoredFile]]:
    """(kind, file) of each stored file: snapshots', checkpoints', exports', label checks',
    extracts'. A file that two rows name comes twice."""
    for of in session.scalars(select(Snapshot.files).execution_options(yield_per=BATCH)):
        yield from (("snapshots", file) for file in of)
    columns = (CheckpointFile.name, CheckpointFile.key, CheckpointFile.size, CheckpointFile.sha256)
    for row in session.execute(select(*columns).execution_options(yield_per=BATCH)).tuples():
        yield "checkpoints", StoredFile(*row)
    for of in session.scalars(select(Export.files).execution_options(yield_per=BATCH)):
        yield from (("exports", file) for file in of)
    for of in session.scalars(select(LabelCheck.files).execution_options(yield_per=BATCH)):
        yield from (("label checks", file) for file in of)
    for of in session.scalars(select(Extract.files).execution_options(yield_per=BATCH)):
        yield from (("extracts", file) for file in of)
