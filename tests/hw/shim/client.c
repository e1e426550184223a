/* A client without Python: runs a file of program_file.py on a node, and says whether the output is as expected.
 *
 *     client PROGRAM /dev/accel/accel0|/dev/dri/card1 RUNS
 *
 * The structures are declared here from uapi.md, with their sizes and offsets checked. */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

struct version { int numbers[3]; size_t name_length; char *name; size_t date_length; char *date; size_t length; char *description; };
struct create_bo { uint32_t size, handle; uint64_t dma_address, offset; };
struct prep_bo { uint32_t handle, reserved; int64_t timeout_ns; };
struct fini_bo { uint32_t handle, reserved; };
struct rocket_task { uint32_t regcmd, regcmd_count; };
struct rocket_job { uint64_t tasks, in, out; uint32_t task_count, task_struct_size, in_count, out_count; };
struct rocket_submit { uint64_t jobs; uint32_t job_count, job_struct_size; uint64_t reserved; };
struct mem_create { uint32_t handle, flags; uint64_t size, obj_addr, dma_addr, sram_size; int32_t domain; uint32_t core_mask; };
struct mem_map { uint32_t handle, reserved; uint64_t offset; };
struct mem_sync { uint32_t flags, reserved; uint64_t obj_addr, offset, size; };
struct rknpu_task { uint32_t flags, op_idx, enable_mask, int_mask, int_clear, int_status, amount, offset; uint64_t regcmd; };
struct rknpu_submit {
    uint32_t flags, timeout, task_start, task_number, task_counter;
    int32_t priority;
    uint64_t task_obj_addr;
    uint32_t domain, reserved;
    uint64_t task_base_addr;
    int64_t elapsed;
    uint32_t core_mask;
    int32_t fence_fd;
    uint32_t subcore[5][2];
};
_Static_assert(sizeof(struct version) == 64 && sizeof(struct create_bo) == 24 && sizeof(struct prep_bo) == 16, "");
_Static_assert(sizeof(struct rocket_job) == 40 && offsetof(struct rocket_job, out_count) == 36, "");
_Static_assert(sizeof(struct mem_create) == 48 && sizeof(struct rknpu_task) == 40, "");
_Static_assert(sizeof(struct rknpu_submit) == 104 && offsetof(struct rknpu_submit, subcore) == 64, "");

struct bo { uint64_t handle, address, object; unsigned char *view; };

static uint64_t *at; /* in the file */
static int rocket;

static void demand(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "%s: %s\n", what, strerror(errno));
        exit(1);
    }
}

static struct bo create(int fd, uint64_t size)
{
    struct bo bo = {0};
    uint64_t offset;
    if (rocket) {
        struct create_bo create = {.size = (uint32_t)size};
        demand(!ioctl(fd, _IOWR('d', 0x40, struct create_bo), &create), "CREATE_BO");
        bo.handle = create.handle;
        bo.address = create.dma_address;
        offset = create.offset;
    } else {
        struct mem_create create = {.flags = 0x1B, .size = size};
        demand(!ioctl(fd, _IOWR('d', 0x42, struct mem_create), &create), "MEM_CREATE");
        struct mem_map map = {.handle = create.handle};
        demand(!ioctl(fd, _IOWR('d', 0x43, struct mem_map), &map), "MEM_MAP");
        bo = (struct bo){create.handle, create.dma_addr, create.obj_addr, NULL};
        offset = map.offset;
    }
    bo.view = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
    demand(bo.view != MAP_FAILED, "mmap");
    return bo;
}

static void to_device(int fd, const struct bo *bo, uint64_t size)
{
    if (rocket) {
        struct fini_bo fini = {.handle = (uint32_t)bo->handle};
        demand(!ioctl(fd, _IOW('d', 0x43, struct fini_bo), &fini), "FINI_BO");
    } else {
        struct mem_sync sync = {.flags = 1, .obj_addr = bo->object, .size = size};
        demand(!ioctl(fd, _IOWR('d', 0x45, struct mem_sync), &sync), "MEM_SYNC");
    }
}

static void run_rocket(int fd, uint32_t tasks, const uint64_t (*streams)[2], const struct bo *bos, uint64_t reads,
                       uint64_t writes, const uint64_t *lists)
{
    struct rocket_task list[tasks];
    uint32_t handles[reads + writes + 1];
    for (uint32_t i = 0; i < tasks; i++)
        list[i] = (struct rocket_task){(uint32_t)streams[i][0], (uint32_t)streams[i][1]};
    for (uint64_t i = 0; i < reads + writes; i++)
        handles[i] = (uint32_t)bos[lists[i]].handle;
    struct rocket_job job = {(uintptr_t)list,      (uintptr_t)handles, (uintptr_t)(handles + reads), tasks,
                             sizeof *list, (uint32_t)reads,    (uint32_t)writes};
    struct rocket_submit submit = {(uintptr_t)&job, 1, sizeof job, 0};
    demand(!ioctl(fd, _IOW('d', 0x41, struct rocket_submit), &submit), "SUBMIT");
    for (uint64_t i = 0; i < writes; i++) {
        struct prep_bo prep = {handles[reads + i], 0, INT64_MAX};
        demand(!ioctl(fd, _IOW('d', 0x42, struct prep_bo), &prep), "PREP_BO");
    }
}

static void run_rknpu(int fd, struct bo *array, uint32_t tasks, const uint64_t (*streams)[2], uint64_t chains,
                      const uint64_t *ranges)
{
    struct rknpu_task *list = (void *)array->view;
    for (uint32_t i = 0; i < tasks; i++)
        list[i] = (struct rknpu_task){0, i, 0xD, 0x300, 0x1FFFF, 0, (uint32_t)streams[i][1] - 4, 0, streams[i][0]};
    for (uint64_t i = 0; i < chains; i++) {
        uint32_t first = (uint32_t)ranges[2 * i], count = (uint32_t)ranges[2 * i + 1];
        struct rknpu_submit submit = {.flags = 5, .timeout = 6000, .task_number = count, .task_obj_addr = array->object,
                                      .core_mask = 1, .fence_fd = -1, .subcore = {{first, count}}};
        demand(!ioctl(fd, _IOWR('d', 0x41, struct rknpu_submit), &submit), "SUBMIT");
        demand(submit.task_counter == count && list[first + count - 1].int_status & 0x300, "completion");
    }
}

int main(int count, char **arguments)
{
    demand(count == 4, "PROGRAM NODE RUNS");
    FILE *file = fopen(arguments[1], "rb");
    demand(file && !fseek(file, 0, SEEK_END), arguments[1]);
    size_t length = (size_t)ftell(file);
    uint64_t *numbers = malloc(length);
    rewind(file);
    demand(numbers && fread(numbers, 1, length, file) == length, arguments[1]);
    fclose(file);
    uint64_t buffers = numbers[0], tasks = numbers[1], relocations = numbers[2], reads = numbers[3], writes = numbers[4],
             chains = numbers[5];

    int fd = open(arguments[2], O_RDWR | O_CLOEXEC);
    demand(fd >= 0, arguments[2]);
    char name[16] = "";
    struct version version = {.name_length = sizeof name - 1, .name = name};
    demand(!ioctl(fd, _IOWR('d', 0, struct version), &version), "VERSION");
    rocket = !strcmp(name, "rocket");
    demand(rocket || !strcmp(name, "rknpu"), name);

    at = numbers + 6;
    struct bo bos[buffers];
    uint64_t sizes[buffers], streams[tasks][2], *words[tasks];
    for (uint64_t i = 0; i < buffers; i++) {
        sizes[i] = at[0];
        bos[i] = create(fd, sizes[i]);
        uint64_t given = at[1];
        at += 2;
        if (given) {
            memcpy(bos[i].view, at, sizes[i]);
            at += (sizes[i] + 7) / 8;
        }
    }
    for (uint64_t i = 0; i < tasks; i++) {
        streams[i][1] = *at++;
        words[i] = at;
        at += streams[i][1];
    }
    for (uint64_t i = 0; i < relocations; i++, at += 4)
        words[at[0]][at[1]] |= (bos[at[2]].address + at[3]) << 16;
    uint64_t offset = 0;
    for (uint64_t i = 0; i < tasks; i++) {
        memcpy(bos[0].view + offset, words[i], 8 * streams[i][1]);
        streams[i][0] = bos[0].address + offset;
        offset += (8 * streams[i][1] + 63) / 64 * 64;
    }
    uint64_t *lists = at, *ranges = at + reads + writes;
    for (uint64_t i = 0; i < buffers; i++)
        to_device(fd, &bos[i], sizes[i]);
    struct bo array = {0};
    if (!rocket)
        array = create(fd, tasks * sizeof(struct rknpu_task));

    for (int run = 0; run < atoi(arguments[3]); run++) {
        if (rocket)
            run_rocket(fd, (uint32_t)tasks, (const void *)streams, bos, reads, writes, lists);
        else
            run_rknpu(fd, &array, (uint32_t)tasks, (const void *)streams, chains, ranges);
        at = ranges + 2 * chains;
        for (uint64_t i = 0; i < writes; i++) {
            uint64_t buffer = *at++;
            demand(!memcmp(bos[buffer].view, at, sizes[buffer]), "the output differs");
            at += (sizes[buffer] + 7) / 8;
            memset(bos[buffer].view, 0, sizes[buffer]);
        }
    }
    printf("%s: %s right\n", name, arguments[3]);
    return 0;
}
