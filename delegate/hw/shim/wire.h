/* Messages between a client and the server; wire.py has the same numbers. All fields are little endian.
 *
 * An open device node is a connected SOCK_SEQPACKET socket, so that dup, fork, exec, passing and close mean what they
 * mean for the node. Each call sends a struct request on it, together with one end of a new socket pair; over the other
 * end the server asks for what it needs (a kernel's copy_from_user and copy_to_user), and ends with DONE. */
#ifndef TEFLON_SHIM_WIRE_H
#define TEFLON_SHIM_WIRE_H

#include <stdint.h>

enum { REQUEST_IOCTL = 1, REQUEST_MMAP = 2 };

struct request {
    uint32_t kind;
    uint32_t command;  /* of an ioctl */
    uint64_t argument; /* of an ioctl; offset of a mapping */
    uint64_t length;   /* of a mapping, bytes */
    uint64_t flags;    /* of a mapping: bit 0 if it is private */
};

enum {
    COPY_IN = 1,  /* send length bytes at address: a status byte, then the bytes */
    COPY_OUT = 2, /* the next message is length bytes for address */
    TAKE_FD = 3,  /* send the file descriptor with the number address: a status byte, with the descriptor */
    GIVE_FD = 4,  /* comes with a descriptor: its number is stored at address, or kept for the mapping if that is 0;
                   it stays open across exec if result is 1 */
    DONE = 5,     /* the result of the call, or an error number less than 0 */
};

struct reply {
    uint32_t kind;
    int32_t result;
    uint64_t address;
    uint64_t length; /* at most CHUNK */
};

enum { CHUNK = 32768, INTERRUPTED = 255 }; /* the status byte that says that a signal came */

#endif
