"""Devices and clocks of which is known beforehand what they should be measured to do."""

from sweeps.measuring import timing


class SimulatedDevice(timing.Clock):
    """A device that works through a queue in simulated time: a pass takes `pass_ms` there and 0.1 ms to start."""

    def __init__(self, pass_ms=5.0):
        self.pass_ms, self.host_ms, self.free_ms, self.passes = pass_ms, 0.0, 0.0, 0

    def step(self):
        self.host_ms += 0.1
        self.free_ms = max(self.free_ms, self.host_ms) + self.pass_ms
        self.passes += 1

    def now_ms(self):
        return self.host_ms

    def synchronize(self):
        self.host_ms = max(self.host_ms, self.free_ms)

    def time_ms(self, work):
        self.synchronize()
        begin = self.host_ms
        work()
        self.synchronize()
        return self.host_ms - begin
