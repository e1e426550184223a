/* A program that is no Python and has libteflon.so loaded: it plays TFLite's interpreter for one convolution.

   Neither runtime's wheel exports TFLite's C API; what an interpreter gives a delegate is TfLiteContext, so that is what
   stands here. `host <libteflon.so> [key=value ...]` ends with 0 if all went well, and says how many libpythons it has.
   HOST_REPORTS=1: gives the delegate a function for errors.  HOST_PYTHON=<libpython>: has a Python of its own before, as
   a plug-in would load it, for itself only.  HOST_TIMES=<n>: makes and destroys the delegate that often. */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tflite_c_api.h"

enum { INPUT, WEIGHT, BIAS, OUTPUT, TENSORS, HEIGHT = 5, WIDTH = 4, CHANNELS = 8, PIXELS = HEIGHT * WIDTH };
enum { INT32 = 2, UINT8 = 3, MMAP_READ_ONLY = 1, ARENA = 2, CONV_2D = 3 };

typedef TfLiteDelegate *(*Create)(char **, char **, size_t, void (*)(const char *));
typedef void (*Destroy)(TfLiteDelegate *);

static TfLiteTensor tensors[TENSORS];
static TfLiteConvParams options = {1, 1, 1, 0, 1, 1};
static TfLiteNode conv, claimed;
static TfLiteRegistration conv_registration = {.builtin_code = CONV_2D, .version = 1}, kernel;
static TfLiteDelegateParams partition;
static TfLiteIntArray *plan;
static int is_claimed;

static TfLiteIntArray *ints(int size, ...) {
  TfLiteIntArray *array = malloc(sizeof *array + sizeof(int) * (size_t)size);
  va_list values;
  va_start(values, size);
  array->size = size;
  for (int i = 0; i < size; i++) array->data[i] = va_arg(values, int);
  va_end(values);
  return array;
}

static void report(TfLiteContext *context, const char *format, ...) {
  (void)context;
  va_list values;
  va_start(values, format);
  vfprintf(stderr, format, values);
  va_end(values);
  fputc('\n', stderr);
}

static TfLiteStatus get_plan(TfLiteContext *context, TfLiteIntArray **result) {
  (void)context;
  *result = plan;
  return 0;
}

static TfLiteStatus get_node(TfLiteContext *context, int index, TfLiteNode **node, TfLiteRegistration **registration) {
  (void)context;
  *node = &conv;
  *registration = &conv_registration;
  return index != 0;
}

static TfLiteStatus preview(TfLiteContext *context, const TfLiteIntArray *nodes, TfLiteDelegateParams **found,
                            int *count) {
  (void)context;
  *found = &partition;
  *count = nodes->size;
  return 0;
}

static TfLiteStatus replace(TfLiteContext *context, TfLiteRegistration registration, const TfLiteIntArray *nodes,
                            TfLiteDelegate *delegate) {
  (void)nodes;
  kernel = registration;
  partition.delegate = delegate;
  claimed.user_data = kernel.init(context, (const char *)&partition, 0);
  is_claimed = 1;
  return 0;
}

static void tensor(int index, int type, float scale, TfLiteIntArray *dims, void *data, size_t bytes, int allocation) {
  TfLiteFloatArray *scales = malloc(sizeof *scales + sizeof(float));
  TfLiteAffineQuantization *quantization = malloc(sizeof *quantization);
  scales->size = 1;
  scales->data[0] = scale;
  *quantization = (TfLiteAffineQuantization){scales, ints(1, 0), 0};
  tensors[index] = (TfLiteTensor){.type = type, .data = data, .dims = dims, .scale = scale, .bytes = bytes,
                                  .allocation_type = allocation, .name = "t", .quantization_type = 1,
                                  .quantization_params = quantization};
}

/* Each output channel is the input channel after it: two times one half of its value. */
static int run(TfLiteDelegate *delegate) {
  static uint8_t input[PIXELS * CHANNELS], weight[CHANNELS * CHANNELS], output[PIXELS * CHANNELS];
  static int32_t bias[CHANNELS];
  TfLiteContext context = {.tensors_size = TENSORS,
                           .tensors = tensors,
                           .GetExecutionPlan = get_plan,
                           .GetNodeAndRegistration = get_node,
                           .PreviewDelegatePartitioning = preview,
                           .ReplaceNodeSubsetsWithDelegateKernels = replace,
                           .ReportError = report};
  for (int i = 0; i < PIXELS * CHANNELS; i++) input[i] = (uint8_t)(i * 37 + 11);
  for (int k = 0; k < CHANNELS; k++) weight[k * CHANNELS + (k + 1) % CHANNELS] = 2;
  tensor(INPUT, UINT8, 1, ints(4, 1, HEIGHT, WIDTH, CHANNELS), input, sizeof input, ARENA);
  tensor(WEIGHT, UINT8, 0.5f, ints(4, CHANNELS, 1, 1, CHANNELS), weight, sizeof weight, MMAP_READ_ONLY);
  tensor(BIAS, INT32, 0.5f, ints(1, CHANNELS), bias, sizeof bias, MMAP_READ_ONLY);
  tensor(OUTPUT, UINT8, 1, ints(4, 1, HEIGHT, WIDTH, CHANNELS), output, sizeof output, ARENA);
  is_claimed = 0;
  plan = ints(1, 0);
  conv = (TfLiteNode){.inputs = ints(3, INPUT, WEIGHT, BIAS), .outputs = ints(1, OUTPUT), .builtin_data = &options};
  partition = (TfLiteDelegateParams){NULL, plan, conv.inputs, conv.outputs};
  if (delegate->Prepare(&context, delegate)) return 1;
  if (!is_claimed) return fputs("the convolution was not claimed\n", stderr), 1;
  for (int times = 0; times < 2; times++) {
    memset(output, 0, sizeof output);
    if (kernel.prepare(&context, &claimed) || kernel.invoke(&context, &claimed)) return 1;
    for (int i = 0; i < PIXELS * CHANNELS; i++) {
      uint8_t expected = input[i - i % CHANNELS + (i + 1) % CHANNELS];
      if (output[i] != expected) return fprintf(stderr, "output %d is %d, not %d\n", i, output[i], expected), 1;
    }
  }
  kernel.free(&context, claimed.user_data);
  return 0;
}

/* Different files named libpython in this process. */
static int count_pythons(void) {
  char line[4096], paths[8][4096];
  int count = 0;
  FILE *maps = fopen("/proc/self/maps", "r");
  while (maps && fgets(line, sizeof line, maps)) {
    char *path = strchr(line, '/');
    int known = !path || !strstr(path, "libpython");
    for (int i = 0; i < count && !known; i++) known = !strcmp(paths[i], path);
    if (!known && count < 8) strcpy(paths[count++], path);
  }
  if (maps) fclose(maps);
  return count;
}

/* A Python that only this program sees; released, as one does who calls it from several threads. */
static int start_own_python(const char *path) {
  void *python = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!python) return fprintf(stderr, "%s\n", dlerror()), 0;
  ((void (*)(int))dlsym(python, "Py_InitializeEx"))(0);
  ((void *(*)(void))dlsym(python, "PyEval_SaveThread"))();
  return 1;
}

static void print_error(const char *message) { fprintf(stderr, "reported: %s\n", message); }

int main(int count, char **arguments) {
  if (count < 2) return fputs("usage: host libteflon.so [key=value ...]\n", stderr), 2;
  void *library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) return fprintf(stderr, "%s\n", dlerror()), 2;
  Create create = (Create)dlsym(library, "tflite_plugin_create_delegate");
  Destroy destroy = (Destroy)dlsym(library, "tflite_plugin_destroy_delegate");
  if (!create || !destroy) return fputs("not a delegate\n", stderr), 2;
  char *keys[16], *values[16];
  size_t given = 0;
  for (int i = 2; i < count && given < 16; i++, given++) {
    keys[given] = arguments[i];
    values[given] = strchr(arguments[i], '=');
    if (!values[given]) return fputs("an option has no value\n", stderr), 2;
    *values[given]++ = 0;
  }
  destroy(NULL);
  if (getenv("HOST_PYTHON") && !start_own_python(getenv("HOST_PYTHON"))) return 2;
  int times = getenv("HOST_TIMES") ? atoi(getenv("HOST_TIMES")) : 1, failed = 0;
  for (int i = 0; i < times && !failed; i++) {
    TfLiteDelegate *delegate = create(keys, values, given, getenv("HOST_REPORTS") ? print_error : NULL);
    if (!delegate) return fputs("no delegate\n", stderr), 3;
    failed = run(delegate);
    destroy(delegate);
  }
  if (!failed) printf("right, with %d libpython\n", count_pythons());
  return failed;
}
