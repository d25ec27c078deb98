"""A stand-in for NVIDIA's management library (pynvml): two cards, which no CUDA program sees."""

import types

GIB = 2**30


class StandIn(types.ModuleType):
    """Two GPUs of 80 GiB at 50 % and 300 W each."""

    NVMLError = RuntimeError

    def __init__(self):
        super().__init__("pynvml")
        self.nvmlInit = self.nvmlShutdown = lambda: None
        self.nvmlDeviceGetCount = lambda: 2
        self.nvmlDeviceGetHandleByIndex = int
        self.nvmlDeviceGetHandleByUUID = self.by_uuid
        self.busy: dict[int, list[int]] = {}
        self.nvmlDeviceGetComputeRunningProcesses = lambda handle: [
            types.SimpleNamespace(pid=pid) for pid in self.busy.get(handle, [])
        ]
        self.nvmlDeviceGetUUID = lambda handle: f"GPU-test-{handle}"
        self.nvmlDeviceGetName = lambda handle: "NVIDIA Stand-in"
        self.nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(
            total=80 * GIB, used=(handle + 1) * GIB
        )
        self.nvmlDeviceGetCudaComputeCapability = lambda handle: (9, 0)
        self.nvmlDeviceGetUtilizationRates = lambda handle: types.SimpleNamespace(gpu=50)
        self.nvmlDeviceGetPowerUsage = lambda handle: 300_000

    def by_uuid(self, uuid):
        if uuid not in ("GPU-test-0", "GPU-test-1", "MIG-part-of-1"):
            raise self.NVMLError("Not Found")
        return int(uuid[-1])
