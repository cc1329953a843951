//! Child processes that end with us, and say why when they do not start.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A child process. It is stopped when dropped, and killed by the kernel if this process ends in any other way.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    log_start: u64,
}

impl Process {
    /// Starts `command` in a process group of its own (a Ctrl-C in the terminal is ours to act on), with its output
    /// appended to `log`.
    pub fn spawn(name: &str, command: &Command, log: &Path) -> Result<Self> {
        if let Some(folder) = log.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let log_start = output.metadata()?.len();
        let mut command = dying_with_us(command);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let child = spawn_from_lasting_thread(command)
            .with_context(|| format!("{name}: cannot start (setpriv is part of util-linux)"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_path_buf(), log_start })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// Its exit status, if it has ended.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Asks `ready` again and again until it gives a value. Fails, with the end of the log, when the process ends or
    /// `within` has passed first.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        within: Duration,
        mut ready: impl FnMut(&Self) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(value) = ready(self) {
                return Ok(value);
            }
            if let Some(status) = self.exited()? {
                bail!("{} ended ({status}) before: {what}\n{}", self.name, self.log_tail());
            }
            if Instant::now() > deadline {
                bail!("{}: not within {within:?}: {what}\n{}", self.name, self.log_tail());
            }
            thread::sleep(POLL);
        }
    }

    /// What it has written since this start.
    pub fn log(&self) -> String {
        let read = || {
            let mut file = File::open(&self.log)?;
            file.seek(SeekFrom::Start(self.log_start))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            std::io::Result::Ok(bytes)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
    }

    /// Resident memory in bytes, as the kernel counts it now.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let kib = status
            .lines()
            .find_map(|line| {
                line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
            })
            .with_context(|| format!("{}: no VmRSS", self.name))?;
        Ok(kib * 1024)
    }

    /// SIGTERM, and SIGKILL if it is still there after a while.
    pub fn stop(&mut self) -> Result<()> {
        if self.exited()?.is_none() {
            self.signal(Signal::TERM)?;
            let deadline = Instant::now() + GRACE;
            while self.exited()?.is_none() {
                if Instant::now() > deadline {
                    return self.kill();
                }
                thread::sleep(POLL);
            }
        }
        Ok(())
    }

    /// SIGKILL, the way a crash looks to everybody else; returns when it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends a signal: SIGSTOP and SIGCONT make a peer that accepts nothing.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.iter().skip(lines.len().saturating_sub(TAIL_LINES));
        let text: String = tail.map(|line| format!("    {line}\n")).collect();
        format!("the end of {}:\n{text}", self.log.display())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("{}: could not be stopped: {error:#}", self.name);
        }
    }
}

/// Asks `ready` again and again until it gives a value; fails after `within` with `what` as the reason.
pub fn wait_until<T>(what: &str, within: Duration, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = ready() {
            return Ok(value);
        }
        if Instant::now() > deadline {
            bail!("not within {within:?}: {what}");
        }
        thread::sleep(POLL);
    }
}

/// The same command under `setpriv`, which asks the kernel to kill it when its parent ends, then becomes it.
fn dying_with_us(command: &Command) -> Command {
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(key, value),
            None => wrapped.env_remove(key),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        wrapped.current_dir(folder);
    }
    wrapped
}

/// To the kernel the parent is a *thread*: a child of a test's own thread would be killed when that one test ends,
/// so one thread that never ends starts them all.
fn spawn_from_lasting_thread(command: Command) -> Result<Child> {
    type Job = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: LazyLock<mpsc::Sender<Job>> = LazyLock::new(|| {
        let (jobs, inbox) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                // Whoever asked waits for the answer.
                let _ = reply.send(command.spawn());
            }
        });
        jobs
    });
    let (reply, answer) = mpsc::channel();
    SPAWNER.send((command, reply)).map_err(|_| anyhow::anyhow!("the spawning thread has ended"))?;
    Ok(answer.recv()??)
}

const POLL: Duration = Duration::from_millis(10);
/// RabbitMQ closes its stores on SIGTERM; on a busy machine that takes seconds.
const GRACE: Duration = Duration::from_secs(15);
const TAIL_LINES: usize = 25;
