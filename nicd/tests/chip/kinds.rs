//! The three chips, as the tests make them.

use super::Chip;
use crate::memory::{Shared, memory};
use nicd::driver::Wishes;
use nicd::driver::e1000e::E1000e;
use nicd::driver::hardware::{Hardware, RINGS_SIZE};
use nicd::driver::igb::Igb;
use nicd::driver::intel::IntelNic;
use nicd::driver::virtio::Virtio;
use nicd::driver::virtio::regs::Layout;
use nicd::model::e1000e::E1000eModel;
use nicd::model::igb::IgbModel;
use nicd::model::virtio::VirtioModel;
use nicd::nic::Slab;
use std::io;
use std::rc::Rc;

pub struct OnE1000e;

impl Chip for OnE1000e {
    type Model = E1000eModel<Shared>;
    type Nic = IntelNic<Rc<E1000eModel<Shared>>, E1000e>;
    const NAME: &'static str = "e1000e";

    fn model(slabs: &[Slab<Shared>]) -> Rc<Self::Model> {
        E1000eModel::new(memory(RINGS_SIZE), slabs)
    }

    fn driver(model: &Rc<Self::Model>, wishes: &Wishes) -> io::Result<Self::Nic> {
        IntelNic::new(model.clone(), E1000e, wishes)
    }
}

pub struct OnIgb;

impl Chip for OnIgb {
    type Model = IgbModel<Shared>;
    type Nic = IntelNic<Rc<IgbModel<Shared>>, Igb>;
    const NAME: &'static str = "igb";

    fn model(slabs: &[Slab<Shared>]) -> Rc<Self::Model> {
        IgbModel::new(memory(RINGS_SIZE), slabs)
    }

    fn driver(model: &Rc<Self::Model>, wishes: &Wishes) -> io::Result<Self::Nic> {
        IntelNic::new(model.clone(), Igb, wishes)
    }
}

pub struct OnVirtio;

impl Chip for OnVirtio {
    type Model = VirtioModel<Shared>;
    type Nic = Virtio<Rc<VirtioModel<Shared>>>;
    const NAME: &'static str = "virtio";

    fn model(slabs: &[Slab<Shared>]) -> Rc<Self::Model> {
        VirtioModel::new(memory(RINGS_SIZE), slabs)
    }

    fn driver(model: &Rc<Self::Model>, wishes: &Wishes) -> io::Result<Self::Nic> {
        let layout = Layout::find(|at| model.config8(at)).ok_or(io::ErrorKind::NotConnected)?;
        Virtio::new(model.clone(), layout, wishes)
    }
}
