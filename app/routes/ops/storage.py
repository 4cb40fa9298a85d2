"""What takes how much room, for admins."""

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.ops import storage_use
from app.ops.storage_use import Use
from app.web.deps import AdminDep, SettingsDep
from app.web.templating import render

router = APIRouter()


@dataclass(frozen=True)
class StoragePage:
    use: Use
    data_dir: str
    storage: str


@router.get("/storage")
def show(request: Request, user: AdminDep, settings: SettingsDep) -> Response:
    page = StoragePage(storage_use.measure(settings), str(settings.data_dir), settings.storage)
    return render(request, "ops/storage/show.html", page)
