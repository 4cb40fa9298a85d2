"""What takes how much room, for admins."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.ops import storage_use
from app.web.deps import ApiAdminDep, SettingsDep

router = APIRouter(tags=["storage"])


class Part(BaseModel):
    name: str
    bytes: int
    files: int | None = Field(description="None where they aren't counted.")


class StorageUse(BaseModel):
    parts: list[Part]
    free: int = Field(description="Bytes free on the disk of the data folder.")
    total: int


@router.get("/storage")
def show(user: ApiAdminDep, settings: SettingsDep) -> StorageUse:
    """Bytes of the database, of the stored files of each kind, and of the parts of the data folder."""
    use = storage_use.measure(settings)
    parts = [Part(name=part.name, bytes=part.bytes, files=part.files) for part in use.parts]
    return StorageUse(parts=parts, free=use.free, total=use.total)
