"""A process that judges a run beside others: ``python analyzing.py URL RUN NAME``. Waits for a line, then raises alerts."""

import sys
from dataclasses import replace

from foreshock.storage import LeaseHeldError, open_store
from foreshock.storage.records import Alert, AlertState, Notification, Severity, analyzer_lease, new_id

url, run, name = sys.argv[1:]
store = open_store(url, create=False)
lease = analyzer_lease(run, name)
print("ready", flush=True)
sys.stdin.readline()
kept = refused = 0
for episode in range(10):
    shared = Alert(new_id(), run, "shared", "", episode, Severity.WARNING, AlertState.FIRING, 0, 1, 1, 1.0, 1.0, name)
    store.save_alerts([shared], [Notification(f"shared-{episode}", shared.id, "json://x", "t", "b")])
    try:
        store.save_alerts([replace(shared, id=new_id(), rule="leased", module=name)], lease=lease)
        kept += 1
    except LeaseHeldError:
        refused += 1
    mine = store.claim_notifications(store.due_notifications(10.0), until=1e12)
    print("claimed", *(entry.id for entry in mine), flush=True)
print("end", kept, refused, flush=True)
sys.stdin.readline()
