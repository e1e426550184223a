"""A convolution as a device's job, with buffers of its own."""

from __future__ import annotations

import numpy as np
from hw.sim.programs import BIAS, INPUT, OUTPUT, WEIGHTS, Fields, Shape, convolution, words

from delegate.hw.device import Device, DeviceJob, DeviceTask, Memory
from delegate.hw.registers import Register

SHAPE = Shape(4, 4, 16, 32, output=(4, 4))
SIZES = {INPUT: 256, WEIGHTS: 512, BIAS: 128, OUTPUT: 512}


def relocated(addresses: dict[int, Memory], shift: int = 14) -> list[int]:
    """The test convolution with its buffers at the device's addresses."""

    def place(register: Register, label: str, value: int) -> int:
        return addresses[value].address if register.address else value

    fields: Fields = {
        register: {label: place(register, label, value) for label, value in values.items()}
        for register, values in convolution(SHAPE, shift=shift).items()
    }
    return words(fields)


class Job:
    """A convolution that writes its bias, with buffers of its own."""

    def __init__(self, device: Device, bias: int, shift: int = 14) -> None:
        (space,) = device.spaces(1)
        self.buffers = {address: device.allocate(size, space) for address, size in SIZES.items()}
        self.buffers[BIAS].view.view(np.int32)[:] = bias
        stream = np.array(relocated(self.buffers, shift), np.uint64)
        self.stream = device.allocate(stream.nbytes, space)
        self.stream.view[:] = stream.view(np.uint8)
        for memory in (*self.buffers.values(), self.stream):
            device.flush(memory)
        task = DeviceTask(self.stream.address, len(stream))
        self.job = DeviceJob((task,), (range(1),), (self.buffers[INPUT],), (self.buffers[OUTPUT],))

    @property
    def output(self) -> list[int]:
        return sorted(set(self.buffers[OUTPUT].view.view(np.int8).tolist()))
