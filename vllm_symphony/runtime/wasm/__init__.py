"""The wasm image: programs in any language that compiles to WebAssembly (docs/wasm.md).

    module (bytes) -> module.py: bounds, compile -> program.py: link, run -> Exit
                                                     |-- symphony.call, take   calls.py, plain.py, transport.py
                                                     '-- WASI preview 1        wasi.py

A program has a process of its own, forked from a zygote that has wasmtime imported; so what is here confines the guest a second
time, and mostly exists for its comfort: a trap is an exit status with a backtrace, not a crash. The engine and all threads are made
after the fork. Rejected: several guests in one process. They would share one interpreter lock, one memory limit and one uid, and a
guest that burns the CPU could be told from its neighbours only by us, not by the system.
"""
