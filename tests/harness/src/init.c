/* PID 1 of the harness's guests: loads the modules it was given, does what the kernel's command line says
 * behind its "--", says so at the console and turns the guest off.
 *
 *   mount TYPE TAG    mounts what the host shares, and reads a file of it
 *   write MIB         writes as many zeros to the port of a virtio console, between the lines "begin" and "end"
 *   read MIB          reads as much from it, between the same lines
 *   sleep SECONDS
 */
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char block[1 << 20];

static void load_modules(void)
{
    glob_t found;
    if (glob("/modules/*", 0, NULL, &found))
        return;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        int fd = open(found.gl_pathv[i], O_RDONLY);
        if (syscall(SYS_finit_module, fd, "", 0))
            perror(found.gl_pathv[i]);
        close(fd);
    }
}

static void mount_share(const char *type, const char *tag)
{
    mkdir("/mnt", 0755);
    const char *options = strcmp(type, "9p") ? "" : "trans=virtio,version=9p2000.L,msize=262144";
    if (mount(tag, "/mnt", type, MS_RDONLY, options))
        perror("mount");
    else if (access("/mnt/etc/debian_version", R_OK))
        perror("access");
    else
        printf("guest: mounted %s\n", type);
}

static int open_port(void)
{
    int fd;
    /* The device appears a moment after its driver. */
    for (int tries = 0; (fd = open("/dev/vport0p1", O_RDWR)) < 0 && tries < 1000; tries++)
        usleep(5000);
    if (fd < 0)
        perror("/dev/vport0p1");
    return fd;
}

static void move(long left, int writing)
{
    int fd = open_port();
    dprintf(fd, "begin\n");
    for (left <<= 20; left > 0;) {
        size_t most = left < (long)sizeof block ? left : sizeof block;
        ssize_t moved = writing ? write(fd, block, most) : read(fd, block, most);
        if (moved <= 0)
            break;
        left -= moved;
    }
    dprintf(fd, "end\n");
}

int main(int count, char **words)
{
    mkdir("/dev", 0755);
    mount("dev", "/dev", "devtmpfs", 0, "");
    load_modules();
    if (count == 4 && !strcmp(words[1], "mount"))
        mount_share(words[2], words[3]);
    else if (count == 3 && !strcmp(words[1], "sleep"))
        sleep(atol(words[2]));
    else if (count == 3)
        move(atol(words[2]), !strcmp(words[1], "write"));
    puts("guest: done");
    fflush(stdout);
    reboot(RB_POWER_OFF);
}
