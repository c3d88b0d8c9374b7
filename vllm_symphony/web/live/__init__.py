"""The live page at /symphony/ (web/live): what the machine does, now.

    /symphony/               page.py     the page: files of this package, no build step, nothing from elsewhere
    /symphony/api/...        api.py      what it asks: ps, files, capacity, info, why, logs, kill; what of it is audited: record.py
    /symphony/api/stream     stream.py   what it is told: a glance (glance.py) each second, steps and calls as they come (window.py)

The page is for everybody and shows nothing by itself; the API needs a principal, and each look and each signal is the kernel's own
call for that principal. So one sees here what `ps`, `strace` and `ls` show, and no more. Needs of the application that it is
part of: `app.state.symphony.link`, and a door before it that says who calls (`edge.credentials.caller`).
"""

from vllm_symphony.web.live.api import routes

__all__ = ["routes"]
