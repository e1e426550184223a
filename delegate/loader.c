/* libteflon.so: finds the host's Python and passes TFLite's two calls on to the part that is made for it.

   Why two parts: a library that is linked with libpython brings a second interpreter into a statically linked Python
   (Debian's /usr/bin/python3), one that is not cannot be loaded by a host without Python. This part needs neither. It
   links only the C library; libteflon-python<version>.so beside it is loaded when it is known whose Python it shall
   use: the process's own, or else a libpython that is loaded for it. See docs/decisions/0001-two-stage-library.md.

   build.py defines TEFLON_PYTHON ("3.11") and TEFLON_LIBPYTHON (where that Python's shared library was at build time). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void (*Report)(const char *message);
typedef void *(*Create)(const char *folder, char **keys, char **values, size_t count, Report report);
typedef void (*Destroy)(void *delegate);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Create create;   /* set once, under lock */
static Destroy destroy; /* the same */
static char folder[PATH_MAX];
static char problem[4 * PATH_MAX];

/* The folder of this library, links resolved, so that a symbolic link to it works. 0 if it cannot be told. */
static int find_folder(void) {
  Dl_info info;
  char path[PATH_MAX];
  if (!dladdr((void *)find_folder, &info) || !info.dli_fname || !realpath(info.dli_fname, path)) return 0;
  *strrchr(path, '/') = 0;
  strcpy(folder, path);
  return 1;
}

/* The version of the Python in this process, its symbols made visible to all; NULL if there is none.
   Looks into every loaded object, for a plug-in of the host may have loaded a libpython for itself only. */
static const char *python_in_process(void) {
  const char *(*version)(void) = (const char *(*)(void))dlsym(RTLD_DEFAULT, "Py_GetVersion");
  struct link_map *object = NULL;
  void *program = dlopen(NULL, RTLD_LAZY);
  if (!version && program && dlinfo(program, RTLD_DI_LINKMAP, &object) == 0) {
    for (; object && !version; object = object->l_next) {
      void *handle = *object->l_name ? dlopen(object->l_name, RTLD_LAZY | RTLD_NOLOAD) : NULL;
      if (!handle) continue;
      version = (const char *(*)(void))dlsym(handle, "Py_GetVersion");
      if (version) dlopen(object->l_name, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL);
      dlclose(handle);
    }
  }
  return version ? version() : NULL;
}

/* "3.11" of "3.11.7 (main, ...)", with a "t" where there is no GIL, whose ABI is another. */
static void short_version(const char *version, char *text, size_t size) {
  int major = 0, minor = 0;
  sscanf(version, "%d.%d", &major, &minor);
  snprintf(text, size, "%d.%d%s", major, minor, strstr(version, "free-threading") ? "t" : "");
}

/* Loads a libpython for a host that has none; where it was at build time, then wherever the loader finds it. */
static int load_python(void) {
  const char *names[] = {getenv("TEFLON_LIBPYTHON"), TEFLON_LIBPYTHON, "libpython" TEFLON_PYTHON ".so.1.0",
                         "libpython" TEFLON_PYTHON ".so"};
  size_t first = names[0] && *names[0] ? 0 : 1, last = first ? 4 : 1;
  for (size_t i = first; i < last; i++)
    if (*names[i] && dlopen(names[i], RTLD_NOW | RTLD_GLOBAL)) return 1;
  snprintf(problem, sizeof problem,
           "this program has no Python, and libpython" TEFLON_PYTHON ".so.1.0, which the delegate needs, cannot be "
           "loaded (%s); install it, or set TEFLON_LIBPYTHON to its path",
           dlerror());
  return 0;
}

/* Loads the part for the process's Python. 0 if that cannot be; `problem` says why. */
static int load(void) {
  char version[32], path[2 * PATH_MAX];
  const char *found = python_in_process();
  if (!find_folder()) {
    snprintf(problem, sizeof problem, "the folder of libteflon.so cannot be told");
    return 0;
  }
  if (!found && load_python()) found = python_in_process();
  if (!found) return 0;
  short_version(found, version, sizeof version);
  snprintf(path, sizeof path, "%s/libteflon-python%s.so", folder, version);
  void *part = dlopen(path, RTLD_NOW | RTLD_NODELETE);
  if (part) {
    create = (Create)dlsym(part, "teflon_create_delegate");
    destroy = (Destroy)dlsym(part, "teflon_destroy_delegate");
    if (create && destroy) return 1;
    create = NULL;
  }
  snprintf(problem, sizeof problem,
           "libteflon.so was built for Python " TEFLON_PYTHON "; this process runs Python %s, whose part of the library "
           "cannot be loaded (%s)",
           version, dlerror());
  return 0;
}

/* Called without the lock: the host's function may wait for the GIL, whose holder may wait for the lock.
   A host that gave no function (TFLite's C API gives none) gets the message on stderr. */
static void fail(Report report, const char *message) {
  if (report)
    report(message);
  else
    fprintf(stderr, "teflon: %s\n", message);
}

__attribute__((visibility("default"))) void *tflite_plugin_create_delegate(char **keys, char **values, size_t count,
                                                                           Report report) {
  char message[sizeof problem];
  pthread_mutex_lock(&lock);
  int loaded = create || load();
  if (!loaded) memcpy(message, problem, sizeof message);
  pthread_mutex_unlock(&lock);
  if (loaded) return create(folder, keys, values, count, report);
  fail(report, message);
  return NULL;
}

__attribute__((visibility("default"))) void tflite_plugin_destroy_delegate(void *delegate) {
  if (delegate && destroy) destroy(delegate);
}
