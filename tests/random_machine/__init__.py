"""The random machine: the whole agent, but for its threads and its HTTP client, against a world that does at random what
KubeVirt, OVN, users and other people may do, and in any order in which the API servers may tell of it.

| file | |
|---|---|
| `cluster.py` | what there is: VMs, VMIs, launchers, migrations, guests, as a model and as Kubernetes objects |
| `kubevirt.py` | what KubeVirt, scheduler and kubelets may do next |
| `users.py` | what users may do next |
| `fabric.py` | the OVN databases: all that becomes of NB's rows; SB as northd and the ovn-controllers keep it |
| `others.py` | what other people do in NB |
| `driver.py` | the agent, turned by hand: how news reaches it, how it is killed and started anew, its clock |
| `invariants.py` | what must hold after each write, after each step, and at rest |
| `world.py` | what all episodes share: databases, object server, clock, configuration |
| `machine.py` | steps and episodes |
| `run.py` | many of them; one that fails is made shorter, and printed |
| `faults.py` | faults planted in a copy of the code, that the machine must find |
"""
