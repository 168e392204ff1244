"""
``make bench``: this tunnel and its peers side by side, under the same load, in the same run.

    system.py      what a system under test is: where callers connect, which processes carry them
    upstream.py    the server behind all of them: nginx, with and without TLS
    program.py     programs under test; certificates.py: the keys of everything that is not ours
    systems/       direct, ours (product, tunnel, fallback), frp, chisel, rathole, ssh -R
    bare_gateway.py    what stands in for the gateway where the tunnel is measured alone
    install.py     how the peers get onto a machine
    workloads/     one file for each workload of the table
    load/          what makes the load: wrk, curl, and programs for what those cannot do
    processes.py   CPU time and memory of a tunnel's processes
    rounds.py      interleaving, medians
    gates.py       the gates and targets as data, and how a run is judged by them
    report.py      the table, latest.json
    picture.py     PNG and SVG

The README beside the package says how to read the figures.
"""
