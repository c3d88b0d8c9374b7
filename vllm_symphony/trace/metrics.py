"""All metrics of ours (trace/metrics.py); docs/metrics.md is this list in words, and a test compares them.

    symphony:calls_total{call="forward",reason="ok"} 42

Names have vLLM's form: `symphony:`, then what is counted, in base units (seconds, bytes). Labels come from the few below, and each
has a bounded set of values: programs cannot make series. `by="door"` are counted by the processes that take requests; the kernel
adds up what these report, so that one look shows the whole server.
"""

from __future__ import annotations

from collections.abc import Mapping

from vllm_symphony.abi.table import CALLS as CALL_TABLE
from vllm_symphony.errors import BY_REASON
from vllm_symphony.trace.metric import OTHER, Metric

# ---- labels, and their values

CALL = (*CALL_TABLE, OTHER)
CALL_KIND = ("control", "model", "text", "wait", "edge", OTHER)
REASON = ("ok", *sorted(BY_REASON), OTHER)
ENDED = ("exit", "exception", "signal", "cancelled", "orphan", "lease", "device", "program", "limit", "denied", OTHER)
PROCESS = ("program", "session", "client", "edge")
STATE = ("starting", "running", "stopped", "zombie")
RUNTIME = ("python", "wasm", "trusted", OTHER)
TOKENS = ("forwarded", "generated", "sampled")
TIER = ("device", "host", "disk")
BELOW = ("host", "disk")
WAY = ("in", "out")
QUANTITY = ("tokens", "calls", "cost", "work", "gap")
CLASS = ("programs", "plain")
JOB = ("running", "parked", "waiting")
TURN = ("running", "waiting")
SCHED = ("process", "memory", "batch")  # levels of scheduling
POLICY = ("fcfs", "priority", "vtc", "plas", "atlas", "justitia", "shortest", "lru", "infercept", "ttl", "immediate", "cohort")
LIMIT = (
    "tokens", "device_s", "wall_s", "cpu_s", "processes", "depth", "tool_calls", "device_pages", "host_bytes", "disk_bytes",
    "files", "rows", "pinned_pages", "channels", "messages", "programs", "attributes", OTHER,
)  # fmt: skip
DOOR = ("grpc", "http")
CODE = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
    "UNAUTHENTICATED", "2xx", "3xx", "400", "401", "403", "404", "405", "408", "409", "413", "422", "429", "4xx", "500", "501",
    "503", "5xx", OTHER,
)  # fmt: skip
REFUSED = ("rate", "token", "host", "origin", OTHER)
LEVEL = ("debug", "info", "warning", "error", "critical", OTHER)
DONE = ("ok", "failed")
SPANS = ("exported", "dropped", "failed")

WAIT_S = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0)
STEP_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
START_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0)

# ---- the kernel

CALLS = Metric("symphony:calls", "counter", "System calls that have ended, by call and result.", {"call": CALL, "reason": REASON})
CALL_SECONDS = Metric(
    "symphony:call_seconds", "histogram", "How long system calls took, by kind of call: those of kind control never wait.",
    {"kind": CALL_KIND}, "seconds", WAIT_S,
)  # fmt: skip
CALLS_IN_FLIGHT = Metric("symphony:calls_in_flight", "gauge", "System calls that have not ended.")
PROCESSES = Metric("symphony:processes", "gauge", "Processes by kind and state.", {"kind": PROCESS, "state": STATE})
PROCESSES_STARTED = Metric("symphony:processes_started", "counter", "Processes that began, by kind.", {"kind": PROCESS})
PROCESSES_ENDED = Metric(
    "symphony:processes_ended",
    "counter",
    "Programs and sessions that ended, by how.",
    {"kind": ("program", "session"), "reason": ENDED},
)
START_SECONDS = Metric(
    "symphony:process_start_seconds", "histogram", "From the launch of a program until its code runs.", {}, "seconds", START_S
)
LAUNCHES = Metric("symphony:launches", "counter", "Programs that were launched, by runtime.", {"kind": RUNTIME})
SESSIONS = Metric(
    "symphony:sessions", "gauge", "Open sessions: connected, or away on their lease.", {"state": ("connected", "away")}
)
THREADS = Metric("symphony:threads", "gauge", "Threads of processes.")
TOKEN_COUNT = Metric(
    "symphony:tokens",
    "counter",
    "Tokens of calls: forwarded into files, generated, drawn from kept rows (sampled).",
    {"kind": TOKENS},
)
FILES = Metric("symphony:files", "gauge", "Files with pages on a tier. One that is on several counts for each.", {"tier": TIER})
FILES_KNOWN = Metric("symphony:files_known", "gauge", "Files that exist, with a name or open.")
FILES_OPEN = Metric("symphony:files_open", "gauge", "Open file descriptors of all processes.")
LIMITS_HIT = Metric(
    "symphony:limits_hit", "counter", "Calls that a limit or a quota refused or cut short, by its kind.", {"kind": LIMIT}
)
CHANNELS = Metric("symphony:channels", "gauge", "Channels that exist.")
MESSAGES_QUEUED = Metric("symphony:messages_queued", "gauge", "Messages in channels that nobody has received.")
MESSAGES = Metric("symphony:messages", "counter", "Messages that went into channels, and answers to requests.")
TOOL_CALLS = Metric("symphony:tool_calls", "counter", "Calls of tools that have ended, by result.", {"reason": REASON})
TOOL_SECONDS = Metric("symphony:tool_seconds", "histogram", "How long calls of tools took.", {}, "seconds", WAIT_S)
TRACERS = Metric("symphony:tracers", "gauge", "Streams of the event log that are open.")
DEVICE_LOST = Metric("symphony:device_lost", "gauge", "1 once the engine has died.")
UPTIME = Metric("symphony:uptime_seconds", "gauge", "Since the kernel started.", {}, "seconds")
BUILD = Metric(
    "symphony:build_info", "gauge", "1, with the versions of what runs.",
    {"version": None, "abi": None, "vllm": None, "torch": None, "python": None},
)  # fmt: skip

# ---- the engine

PAGES = Metric("symphony:pages", "gauge", "Pages in use, by tier.", {"tier": TIER})
PAGES_TOTAL = Metric("symphony:pages_capacity", "gauge", "Pages that a tier has room for.", {"tier": TIER})
ROWS_KEPT = Metric("symphony:rows_kept", "gauge", "Rows of distributions that files keep.")
EVICTED = Metric("symphony:evicted", "counter", "Times that an idle file's pages were taken for somebody else.")
PARKED = Metric("symphony:parked", "counter", "Times that a running call had to pause because older ones needed its pages.")
PREEMPTED = Metric("symphony:preempted", "counter", "Times that a request lost its pages and was computed again.")
OUT_OF_ROOM = Metric("symphony:out_of_room", "counter", "Calls that ended with ENOSPC because nothing more could be freed.")
JOBS = Metric("symphony:jobs", "gauge", "Requests in the engine's scheduler, of programs and plain ones, by state.", {"state": JOB})
QUEUE_SECONDS = Metric(
    "symphony:queue_seconds", "histogram", "From when a call reached the engine until its first step.", {}, "seconds", WAIT_S
)
RUN_QUEUE = Metric(
    "symphony:run_queue", "gauge", "Calls of programs before the device: those that compute, and those that wait for their turn.",
    {"state": TURN},
)  # fmt: skip
QUEUED_PRINCIPALS = Metric("symphony:run_queue_principals", "gauge", "Principals with such calls.", {"state": TURN})
YIELDED = Metric("symphony:yielded", "counter", "Times that a call that computed gave its row to one that goes before it.")
SERVICE = Metric(
    "symphony:service_tokens",
    "counter",
    "What programs have had, weighted: one for a token of a prompt, two for one that is decoded.",
)
SCHED_POLICY = Metric(
    "symphony:sched_policy", "gauge", "1 for the policy that decides now, of each level.", {"kind": SCHED, "policy": POLICY}
)
COHORT_WAITS = Metric("symphony:cohort_waits", "counter", "Times that a step was held for programs about to call.")
COHORT_SECONDS = Metric("symphony:cohort_wait_seconds", "counter", "How long steps were held for them.", {}, "seconds")
STEPS = Metric("symphony:engine_steps", "counter", "Steps of the engine.")
STEP_SECONDS = Metric("symphony:engine_step_seconds", "histogram", "How long a step that computed took.", {}, "seconds", STEP_S)
ROWS = Metric("symphony:engine_rows", "counter", "Requests in steps, one for each step that it was in, by class.", {"kind": CLASS})
STEP_TOKENS = Metric("symphony:engine_tokens", "counter", "Tokens that steps computed, by class.", {"kind": CLASS})
FOUND_TOKENS = Metric("symphony:prefix_found_tokens", "counter", "Tokens of calls that vLLM's prefix cache had.")
MOVES = Metric("symphony:moves_in_flight", "gauge", "Files whose pages are on their way between tiers.")
MOVED_PAGES = Metric(
    "symphony:moved_pages",
    "counter",
    "Pages carried between the device and what is below: in (to the device) and out.",
    {"state": WAY},
)
MOVED_BYTES = Metric("symphony:moved_bytes", "counter", "Bytes of those pages.", {"state": WAY}, "bytes")
MOVE_SECONDS = Metric("symphony:move_seconds", "counter", "How long moves took, added up.", {"state": WAY}, "seconds")
FETCHED = Metric("symphony:fetched_files", "counter", "Files whose pages were brought back before they were asked for.")
PREDICTED = Metric(
    "symphony:predicted", "counter", "What came to pass of what is predicted, added up: of calls, programs and waits.",
    {"kind": QUANTITY},
)  # fmt: skip
PREDICTION_OFF = Metric(
    "symphony:prediction_off", "counter", "By how much predictions of it had been off, added up.", {"kind": QUANTITY}
)
RESTORE_ERRORS = Metric(
    "symphony:restore_errors", "counter", "Pages that could not be read back: they are computed again, or lost."
)
TIER_BYTES = Metric("symphony:tier_bytes", "gauge", "Bytes in use below the device.", {"tier": BELOW}, "bytes")
TIER_CAPACITY = Metric("symphony:tier_capacity_bytes", "gauge", "Bytes that may be used there.", {"tier": BELOW}, "bytes")
POOL_READY = Metric("symphony:pool_ready", "gauge", "1 where a runtime's fork server runs and is warm.", {"kind": RUNTIME})

# ---- the store

STORE_WRITES = Metric("symphony:store_transactions", "counter", "Transactions of the store, by outcome.", {"reason": DONE})
STORE_SECONDS = Metric("symphony:store_seconds", "counter", "Time in transactions.", {}, "seconds")
STORE_BYTES = Metric("symphony:store_bytes", "counter", "Bytes of tokens and attributes that were written.", {}, "bytes")
STORE_SYNCS = Metric("symphony:store_syncs", "counter", "Callers who were told that theirs is on disk.")
STORE_WAITING = Metric("symphony:store_waiting", "gauge", "Files whose records could not be written yet.")

# ---- the doors

REQUESTS = Metric(
    "symphony:requests", "counter", "Requests at the doors that were answered, by gRPC status or HTTP code.", {"door": DOOR,
    "code": CODE}, by="door",
)  # fmt: skip
REQUESTS_IN_FLIGHT = Metric(
    "symphony:requests_in_flight", "gauge", "Requests at the doors, streams too.", {"door": DOOR}, by="door"
)
REQUEST_SECONDS = Metric(
    "symphony:request_seconds", "histogram", "How long requests with one answer took.", {"door": DOOR}, "seconds", WAIT_S, by="door"
)
DOOR_REFUSED = Metric(
    "symphony:refused", "counter", "Requests that never came to the kernel: over the rate, with a bad token, Host or Origin.",
    {"door": DOOR, "reason": REFUSED}, by="door",
)  # fmt: skip
AUDIT = Metric(
    "symphony:audit_records", "counter", "Records of the audit log, by whether they were written.", {"reason": DONE}, by="door"
)
LOG_LINES = Metric("symphony:log_lines", "counter", "Lines of the doors' logs.", {"state": LEVEL}, by="door")
TRACE_SPANS = Metric(
    "symphony:trace_spans",
    "counter",
    "Spans for OpenTelemetry: exported, dropped (the queue was full), failed.",
    {"state": SPANS},
    by="door",
)

METRICS: Mapping[str, Metric] = {value.name: value for value in list(globals().values()) if isinstance(value, Metric)}
SAMPLES: Mapping[str, Metric] = {name: metric for metric in METRICS.values() for name in metric.sample_names}
