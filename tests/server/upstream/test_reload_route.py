"""MONAI Label lets anybody reload the app."""

from __future__ import annotations

from fastapi import FastAPI
from monailabel.interfaces.utils import app as loaded

from server.upstream import reload_route
from upstream_parts import ask


def test_nobody_reloads() -> None:
    import monailabel.app

    own = [route for route in monailabel.app.app.router.routes if getattr(route, "path", "") == reload_route.PATH]
    assert len(own) == 1, "MONAI Label no longer has it"
    app = FastAPI()
    app.router.routes.extend(own)
    loaded.apps["here"] = "an app"
    assert ask(app, "POST", "/reload").status_code == 200
    assert loaded.apps == {}
    reload_route.install(app)
    assert ask(app, "POST", "/reload").status_code == 404
