"""Changes one field of a command stream at a time and looks whether the simulator minds: how strict is the model?"""
